"""The HTTP contract v1 from the client's side: one method a route, errors of the one tree, safe retries."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import httpx2
from pydantic import ValidationError

from parrot.errors import ConflictError, NotFoundError, ParrotError, UnreachableError, UsageError
from parrot.sdk.retry import NO_RETRY, QUICK_RETRY, RetryPolicy
from parrot.types.objective import Objective
from parrot.wire.answers import (
    Answer,
    CallsAccepted,
    CancelAnswer,
    ErrorBody,
    ErrorEnvelope,
    GraphView,
    SessionView,
    VariableView,
)
from parrot.wire.errors import from_body
from parrot.wire.functions import FunctionList, FunctionSpec, FunctionView, WarmAnswer
from parrot.wire.requests import CancelRequest, SessionCreate, SetVariable
from parrot.wire.runs import RunAccepted

A = TypeVar("A", bound=Answer)

_RETRY_STATUSES = frozenset({429, 502, 503, 504})
_RETRY_CODES = frozenset({"request_in_flight"})
_SILENCE_S = 60.0
"""A stream that says nothing for so long, heartbeats included, is taken for broken."""
_POLL_MARGIN_S = 15.0
_DELETE_TIMEOUT_S = 5.0
_MAX_EVENT_BYTES = 16 << 20
_PAGE = 100

_heard: set[str] = set()
"""Addresses at which something has answered this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """One server-sent event of the service."""

    name: str
    data: str
    """JSON text."""


class Client:
    """Speaks to one service. Every method raises `ParrotError`s only."""

    def __init__(self, http: httpx2.AsyncClient, retry: RetryPolicy | None = None) -> None:
        self._http = http
        self._retry = retry or RetryPolicy()
        self.delay: ParrotError | None = None
        """Why the run that is being sent, or was sent last, had to be sent again; None when it had not."""

    @property
    def address(self) -> str:
        """The service's address."""
        return str(self._http.base_url).rstrip("/")

    async def open_session(self, request: SessionCreate) -> SessionView:
        """Open a session; sent again safely, under one idempotency key."""
        body = request.model_dump_json(exclude_none=True).encode()
        response = await self._request(
            "POST", "/v1/sessions", body=body, headers=_fresh_key(), until_heard=QUICK_RETRY
        )
        return self._read(SessionView, response)

    async def delete_session(self, session_id: str) -> None:
        """Delete a session."""
        await self._request("DELETE", _session(session_id), retry=NO_RETRY, timeout_s=_DELETE_TIMEOUT_S)

    async def submit(self, session_id: str, body: bytes) -> CallsAccepted:
        """Submit calls, written as JSON; sent again safely, under one idempotency key."""
        path = f"{_session(session_id)}/calls"
        response = await self._request("POST", path, body=body, headers=_fresh_key())
        return self._read(CallsAccepted, response)

    async def run(
        self, session_id: str | None, body: bytes
    ) -> tuple[RunAccepted, AsyncGenerator[StreamEvent, None]]:
        """Open a session, or go on in one, with calls and what is to be followed, written as JSON: what was
        accepted, and the events that come after it. Sent again safely, under one idempotency key, up to then.

        The events end early, or with a `ParrotError`, when the connection breaks. Close them.
        """
        path = "/v1/run" if session_id is None else f"{_session(session_id)}/run"
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", **_fresh_key()}
        retry = self._retry if session_id is not None or self.address in _heard else QUICK_RETRY
        self.delay = None
        attempt = 0
        while True:
            attempt += 1
            asked_s = None
            events = self._run_events(path, body, headers)
            try:
                first = await anext(events, None)
                if first is not None and first.name == "accepted":
                    return RunAccepted.model_validate_json(first.data), events
                await events.aclose()
                error: ParrotError = UnreachableError(
                    f"{self.address} ended an answer before it began", code="bad_answer"
                )
            except _RetryableAnswer as answer:
                error, asked_s, retry = answer.error, answer.asked_s, self._retry
            except ValidationError:
                error = UnreachableError(f"{self.address} sent what cannot be read", code="bad_answer")
            except UnreachableError as unreachable:
                error = unreachable
                if unreachable.code == "bad_answer":
                    raise
            except ParrotError as told:
                if not told.retryable:
                    raise
                error, retry = told, self._retry
            if attempt >= retry.attempts:
                raise error
            self.delay = error
            await asyncio.sleep(retry.delay_s(attempt, asked_s))

    async def _run_events(
        self, path: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncGenerator[StreamEvent, None]:
        try:
            connection = self._connection("POST", path, headers=headers, content=body)
            async with aclosing(connection) as events:
                async for event in events:
                    if event.event == "error":
                        raise self._stream_error(event.data)
                    yield StreamEvent(name=event.event, data=event.data)
        except httpx2.HTTPError as problem:
            raise self._unreachable(problem) from None

    async def set_variable(self, session_id: str, reference: str, request: SetVariable) -> VariableView:
        """Set an input variable; setting the same value twice is one."""
        response = await self._request(
            "PUT", _variable(session_id, reference), body=request.model_dump_json().encode()
        )
        return self._read(VariableView, response)

    async def get_variable(
        self, session_id: str, reference: str, *, wait_s: float, objective: Objective | None
    ) -> VariableView:
        """One long poll: the variable as it is after at most `wait_s` seconds."""
        params = {"wait": f"{wait_s:.3f}"} | ({"objective": objective} if objective else {})
        response = await self._request(
            "GET", _variable(session_id, reference), params=params, timeout_s=wait_s + _POLL_MARGIN_S
        )
        return self._read(VariableView, response)

    async def cancel(self, session_id: str, request: CancelRequest) -> CancelAnswer:
        """Cancel calls and all that depends on them."""
        body = request.model_dump_json(exclude_none=True).encode()
        return self._read(
            CancelAnswer, await self._request("POST", f"{_session(session_id)}/cancel", body=body)
        )

    async def graph(self, session_id: str) -> GraphView:
        """The application graph."""
        return self._read(GraphView, await self._request("GET", f"{_session(session_id)}/graph"))

    async def register_function(self, name: str, spec: FunctionSpec) -> FunctionView:
        """Register a function; registering the same again changes nothing."""
        body = spec.model_dump_json(by_alias=True, exclude_defaults=True).encode()
        return self._read(FunctionView, await self._request("PUT", _function(name), body=body))

    async def function(self, reference: str) -> FunctionView:
        """A registered function, by name or name and version."""
        return self._read(FunctionView, await self._request("GET", _function(reference)))

    async def functions(self) -> tuple[FunctionView, ...]:
        """The latest version of every registered function, by name."""
        found: list[FunctionView] = []
        after: str | None = None
        while True:
            params = {"limit": str(_PAGE)} | ({"after": after} if after else {})
            page = self._read(FunctionList, await self._request("GET", "/v1/functions", params=params))
            found += page.functions
            after = page.next
            if after is None:
                return tuple(found)

    async def warm_function(self, reference: str) -> WarmAnswer:
        """Have a registered function's constant beginning filled."""
        return self._read(WarmAnswer, await self._request("POST", f"{_function(reference)}/warm"))

    def variable_events(
        self, session_id: str, reference: str, objective: Objective | None
    ) -> AsyncGenerator[StreamEvent, None]:
        """The events of one variable up to `ready` or `failed`, connections that break taken up."""
        params = {"objective": objective} if objective else {}
        return self._events(
            f"{_variable(session_id, reference)}/stream", params, last=frozenset({"ready", "failed"})
        )

    def session_events(self, session_id: str) -> AsyncGenerator[StreamEvent, None]:
        """The events of a session up to its end, connections that break taken up."""
        return self._events(f"{_session(session_id)}/events", {}, last=frozenset({"session_closed"}))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        retry: RetryPolicy | None = None,
        until_heard: RetryPolicy | None = None,
    ) -> httpx2.Response:
        """Send a request, again while that may help. `until_heard` holds for an address that has never
        answered: one that has may be starting again.
        """
        heard = retry or self._retry
        retry = heard if until_heard is None or self.address in _heard else until_heard
        typed = {"Content-Type": "application/json"} if body is not None else {}
        timeout = httpx2.USE_CLIENT_DEFAULT if timeout_s is None else _timeout(timeout_s)
        attempt = 0
        while True:
            attempt += 1
            asked_s = None
            try:
                self._check_open()
                response = await self._http.request(
                    method,
                    path,
                    content=body,
                    params=params,
                    headers={**typed, **(headers or {})},
                    timeout=timeout,
                )
            except httpx2.HTTPError as problem:
                error: ParrotError = self._unreachable(problem)
                again = isinstance(problem, httpx2.TransportError)
            else:
                _heard.add(self.address)
                if response.is_success:
                    return response
                error = self._error(response)
                again = response.status_code in _RETRY_STATUSES or error.code in _RETRY_CODES
                asked_s, retry = _retry_after_s(response), heard
            if not again or attempt >= retry.attempts:
                raise error
            await asyncio.sleep(retry.delay_s(attempt, asked_s))

    async def _events(
        self, path: str, params: Mapping[str, str], *, last: frozenset[str]
    ) -> AsyncGenerator[StreamEvent, None]:
        event_id = ""
        failures = 0
        while True:
            try:
                headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": event_id} if event_id else {})
                connection = self._connection("GET", path, params=params, headers=headers)
                async with aclosing(connection) as events:
                    async for event in events:
                        event_id = event.id
                        if event.event == "error":
                            told = self._stream_error(event.data)
                            raise _RetryableAnswer(told) if told.retryable else told
                        failures = 0
                        yield StreamEvent(name=event.event, data=event.data)
                        if event.event in last:
                            return
                error: ParrotError = UnreachableError(
                    f"{self.address} ended a stream before its last event", code="bad_answer"
                )
            except httpx2.TransportError as problem:
                error = self._unreachable(problem)
            except _RetryableAnswer as answer:
                error = answer.error
            except ConflictError as conflict:
                # A service that was restarted has not come so far again: begin anew, as after a reset.
                if conflict.code != "event_from_future" or not event_id or "ready" not in last:
                    raise
                error, event_id = conflict, ""
                yield StreamEvent(name="reset", data="{}")
            failures += 1
            if failures >= self._retry.attempts:
                raise error
            await asyncio.sleep(self._retry.delay_s(failures))

    async def _connection(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> AsyncGenerator[httpx2.ServerSentEvent, None]:
        self._check_open()
        async with self._http.stream(
            method, path, params=params, headers=headers, content=content, timeout=_timeout(_SILENCE_S)
        ) as response:
            _heard.add(self.address)
            if not response.is_success:
                await response.aread()
                error = self._error(response)
                if response.status_code in _RETRY_STATUSES or error.code in _RETRY_CODES:
                    raise _RetryableAnswer(error, _retry_after_s(response))
                raise error
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise self._bad_answer(response)
            async for event in httpx2.EventSource(response, max_event_size=_MAX_EVENT_BYTES):
                yield event

    def _check_open(self) -> None:
        if self._http.is_closed:
            raise UsageError("the session is closed")

    def _read(self, model: type[A], response: httpx2.Response) -> A:
        try:
            return model.model_validate_json(response.content)
        except ValidationError:
            raise self._bad_answer(response) from None

    def _error(self, response: httpx2.Response) -> ParrotError:
        try:
            error = from_body(ErrorEnvelope.model_validate_json(response.content).error)
        except ValidationError:
            return self._bad_answer(response)
        if error.code == "no_route":
            message = f"{self.address} has no such route; the address of a service is without /v1"
            return NotFoundError(message, code="no_route")
        return error

    def _stream_error(self, data: str) -> ParrotError:
        for model in (ErrorEnvelope, ErrorBody):
            try:
                found = model.model_validate_json(data)
            except ValidationError:
                continue
            return from_body(found.error if isinstance(found, ErrorEnvelope) else found)
        return UnreachableError(f"{self.address} sent an error that cannot be read", code="bad_answer")

    def _bad_answer(self, response: httpx2.Response) -> UnreachableError:
        kind = response.headers.get("content-type", "no content type")
        return UnreachableError(
            f"{self.address} answered {response.request.method} {response.request.url.path} with status "
            f"{response.status_code} and {kind}, which is not what a Parrot service says; check the address",
            code="bad_answer",
            data={"status": response.status_code},
        )

    def _unreachable(self, problem: httpx2.HTTPError) -> UnreachableError:
        what = str(problem) or type(problem).__name__
        return UnreachableError(
            f"no service answers at {self.address} ({what}); "
            "start one with `parrot serve` or check the address"
        )


class _RetryableAnswer(Exception):  # noqa: N818 - carries an error, is none itself
    def __init__(self, error: ParrotError, asked_s: float | None = None) -> None:
        self.error = error
        self.asked_s = asked_s
        super().__init__(error)


def _session(session_id: str) -> str:
    return f"/v1/sessions/{quote(session_id, safe='')}"


def _function(reference: str) -> str:
    return f"/v1/functions/{quote(reference, safe='@')}"


def _variable(session_id: str, reference: str) -> str:
    return f"{_session(session_id)}/variables/{quote(reference, safe='')}"


def _timeout(read_s: float) -> httpx2.Timeout:
    return httpx2.Timeout(connect=10.0, read=read_s, write=30.0, pool=None)


def _fresh_key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_hex(16)}


def _retry_after_s(response: httpx2.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None
