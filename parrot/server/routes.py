"""Routes of application runs: sessions, calls, variables, streams."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from parrot.core.service import Service, StreamItem
from parrot.server.bodies import BodyLimits, read_body
from parrot.server.disconnects import while_connected
from parrot.server.openapi import DirectRoute, describe
from parrot.server.parameters import (
    caller_of,
    idempotency_key,
    last_event_id,
    objective,
    page,
    query_of,
    require_event_stream_accepted,
    tenant_of,
    wait_s,
)
from parrot.server.streaming import EventStream, NamedEvents, StreamConfig
from parrot.wire.answers import (
    CallsAccepted,
    CancelAnswer,
    GraphView,
    SessionList,
    SessionView,
    VariableView,
)
from parrot.wire.requests import CancelRequest, SessionCreate, SetVariable, SubmitCalls
from parrot.wire.runs import RunCreate, RunRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteConfig:
    """What the routes of sessions need to know."""

    submission: BodyLimits
    """Bodies that submit calls."""
    value: BodyLimits
    """Bodies that set a variable."""
    small: BodyLimits
    """All other bodies."""
    streams: StreamConfig
    """How streams are kept alive and ended."""
    max_wait_s: float
    """The longest long poll."""
    closing: asyncio.Event
    """Set when the service shuts down: long polls are answered."""


PART_ITEMS = 256
"""Items of a long list that are written at a time."""


def json_answer(
    model: BaseModel, status: int = 200, *, exclude: set[str] | None = None, location: str | None = None
) -> Response:
    """A model as the answer."""
    return Response(
        model.model_dump_json(exclude=exclude),
        status_code=status,
        headers=None if location is None else {"Location": location},
        media_type="application/json",
    )


async def json_by_parts(model: BaseModel) -> AsyncGenerator[bytes, None]:
    """A model as JSON, its long lists written a part at a time, so that others go on meanwhile."""
    before = b"{"
    for name, value in model:
        yield before + to_json(name) + b":"
        before = b","
        if not isinstance(value, tuple):
            yield to_json(value, by_alias=True)
            continue
        yield b"["
        for start in range(0, len(value), PART_ITEMS):
            part = to_json(value[start : start + PART_ITEMS], by_alias=True)[1:-1]
            yield b"," + part if start else part
            await asyncio.sleep(0)
        yield b"]"
    yield b"}"


def variable_answer(view: VariableView) -> Response:
    """A variable, with `value` only when ready and `error` only when failed."""
    absent = {name for name in ("value", "error") if getattr(view, name) is None}
    return json_answer(view, exclude=absent)


async def _begun(
    first: StreamItem, rest: AsyncGenerator[StreamItem, None]
) -> AsyncGenerator[StreamItem, None]:
    async with aclosing(rest):
        yield first
        async for item in rest:
            yield item


class SessionRoutes:
    """Handlers of `/v1/sessions…`; each takes the request apart, asks the service, and writes the answer."""

    def __init__(self, service: Service, config: RouteConfig) -> None:
        self._service = service
        self._config = config

    def routes(self) -> list[DirectRoute]:
        """All routes, described."""
        sessions, session = "/v1/sessions", "/v1/sessions/{sid}"
        variable = f"{session}/variables/{{ref}}"
        return [
            describe(
                sessions,
                self.create,
                "POST",
                SessionView,
                status=201,
                body=SessionCreate,
                headers=("Idempotency-Key",),
            ),
            describe(
                "/v1/run",
                self.run,
                "POST",
                None,
                body=RunCreate,
                headers=("Idempotency-Key",),
                stream=True,
            ),
            describe(
                f"{session}/run",
                self.run_on,
                "POST",
                None,
                body=RunRequest,
                headers=("Idempotency-Key",),
                stream=True,
            ),
            describe(sessions, self.list_all, "GET", SessionList, query=("limit", "after")),
            describe(session, self.read, "GET", SessionView),
            describe(session, self.delete, "DELETE", None, status=204),
            describe(
                f"{session}/calls",
                self.submit,
                "POST",
                CallsAccepted,
                status=202,
                body=SubmitCalls,
                headers=("Idempotency-Key",),
            ),
            describe(variable, self.set_variable, "PUT", VariableView, body=SetVariable),
            describe(variable, self.get_variable, "GET", VariableView, query=("wait", "objective")),
            describe(
                f"{variable}/stream",
                self.stream_variable,
                "GET",
                None,
                query=("objective",),
                headers=("Last-Event-ID",),
                stream=True,
            ),
            describe(f"{session}/cancel", self.cancel, "POST", CancelAnswer, body=CancelRequest),
            describe(f"{session}/graph", self.graph, "GET", GraphView),
            describe(
                f"{session}/events", self.stream_session, "GET", None, headers=("Last-Event-ID",), stream=True
            ),
        ]

    async def create(self, request: Request) -> Response:
        """Open a run of an application."""
        query_of(request)
        key = idempotency_key(request)
        body = await read_body(request, SessionCreate, self._config.small)
        view = await self._service.open_session(
            tenant_of(request),
            body.model,
            idempotency_key=key,
            body_hash=body.hash() if key is not None else "",
        )
        return json_answer(view, 201, location=f"/v1/sessions/{view.session_id}")

    async def run(self, request: Request) -> Response:
        """Open a session, submit calls and follow variables: server-sent events, `accepted`, then values."""
        key = self._stream_key(request)
        body = await read_body(request, RunCreate, self._config.submission)
        hashed = body.hash() if key is not None else ""
        items = self._service.runs.open(tenant_of(request), body.model, idempotency_key=key, body_hash=hashed)
        return await self._following(items)

    async def run_on(self, request: Request) -> Response:
        """The same in a session that is there."""
        key = self._stream_key(request)
        body = await read_body(request, RunRequest, self._config.submission)
        hashed = body.hash() if key is not None else ""
        sid = request.path_params["sid"]
        items = self._service.runs.go_on(
            tenant_of(request), sid, body.model, idempotency_key=key, body_hash=hashed
        )
        return await self._following(items)

    def _stream_key(self, request: Request) -> str | None:
        query_of(request)
        require_event_stream_accepted(request)
        return idempotency_key(request)

    async def _following(self, items: AsyncGenerator[StreamItem, None]) -> Response:
        """The stream, once its first item is there: what refuses the request is an ordinary answer."""
        first = await anext(items)
        return EventStream(_begun(first, items), self._config.streams, NamedEvents())

    async def list_all(self, request: Request) -> Response:
        """The open sessions, newest first."""
        limit, after = page(query_of(request, "limit", "after"))
        found = self._service.list_sessions(tenant_of(request), limit=limit, after=after)
        return json_answer(found, exclude={"next"} if found.next is None else None)

    async def read(self, request: Request) -> Response:
        """One session, with its state and counts."""
        query_of(request)
        return json_answer(self._service.session(tenant_of(request), request.path_params["sid"]))

    async def delete(self, request: Request) -> Response:
        """Cancel what runs in a session and free everything."""
        query_of(request)
        await self._service.delete_session(tenant_of(request), request.path_params["sid"])
        return Response(status_code=204)

    async def submit(self, request: Request) -> Response:
        """Submit one call or a whole graph, atomically; the answer is committed."""
        query_of(request)
        key = idempotency_key(request)
        body = await read_body(request, SubmitCalls, self._config.submission)
        accepted = await self._service.submit(
            tenant_of(request),
            request.path_params["sid"],
            body.model,
            idempotency_key=key,
            body_hash=body.hash() if key is not None else "",
        )
        return json_answer(accepted, 202)

    async def set_variable(self, request: Request) -> Response:
        """Set an input variable; a new name creates it."""
        query_of(request)
        body = await read_body(request, SetVariable, self._config.value)
        sid, ref = request.path_params["sid"], request.path_params["ref"]
        return variable_answer(await self._service.set_variable(tenant_of(request), sid, ref, body.model))

    async def get_variable(self, request: Request) -> Response:
        """Read a variable, waiting for it up to `wait` seconds."""
        query = query_of(request, "wait", "objective")
        patience_s, wanted = wait_s(query, self._config.max_wait_s), objective(query)
        tenant, sid, ref = tenant_of(request), request.path_params["sid"], request.path_params["ref"]
        view = await self._service.get_variable(tenant, sid, ref, objective=wanted)
        if view.state == "pending" and patience_s > 0:
            later = await while_connected(
                self._service.get_variable(tenant, sid, ref, wait_s=patience_s),
                receive=request.receive,
                closing=self._config.closing,
            )
            self._config.streams.authenticator.require_valid(caller_of(request.scope))
            # When the service shuts down, the value may have come in the same moment.
            view = later or await self._service.get_variable(tenant, sid, ref)
        return variable_answer(view)

    async def stream_variable(self, request: Request) -> Response:
        """Follow a variable as server-sent events: `delta`, `reset`, then `ready` or `failed`."""
        wanted = objective(query_of(request, "objective"))
        require_event_stream_accepted(request)
        items = self._service.stream_variable(
            tenant_of(request),
            request.path_params["sid"],
            request.path_params["ref"],
            last_event_id=last_event_id(request),
            objective=wanted,
        )
        return EventStream(items, self._config.streams, NamedEvents())

    async def cancel(self, request: Request) -> Response:
        """Cancel calls, the producers of variables, and all that depends on them only."""
        query_of(request)
        body = await read_body(request, CancelRequest, self._config.small)
        sid = request.path_params["sid"]
        return json_answer(await self._service.cancel(tenant_of(request), sid, body.model))

    async def graph(self, request: Request) -> Response:
        """The application graph: calls, variables, edges, placements, timings."""
        query_of(request)
        view = await self._service.graph_by_steps(tenant_of(request), request.path_params["sid"])
        return StreamingResponse(json_by_parts(view), media_type="application/json")

    async def stream_session(self, request: Request) -> Response:
        """Follow everything that happens in a session, as server-sent events."""
        query_of(request)
        require_event_stream_accepted(request)
        items = self._service.stream_session(
            tenant_of(request), request.path_params["sid"], last_event_id=last_event_id(request)
        )
        return EventStream(items, self._config.streams, NamedEvents())
