"""The outermost layer of the application: every request passes here, whatever it is.

connection → Edge: request id · header rules · who is it → routing → route
             Edge: error → envelope · access line · request histogram ← answer or error
"""

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parrot.errors import MalformedError, ParrotError, UnavailableError, fault_trace
from parrot.ports.clock import Clock
from parrot.server.auth import Authenticator
from parrot.server.bodies import too_large
from parrot.server.config import ServerConfig
from parrot.server.disconnects import DisconnectedError
from parrot.server.errors import error_response, internal_error
from parrot.server.logs import log, logger
from parrot.server.metrics import Metrics
from parrot.server.openai.errors import is_openai_path, openai_error_response
from parrot.server.parameters import CALLER, HEADERS, REQUEST_ID, content_length, single_headers
from parrot.types.ids import IdSource, TenantId

OPEN_ROUTES = frozenset({("GET", "/healthz")})
"""Answered without a key, if the route that is found says so too: elsewhere, who has none finds nothing."""

MAKING_METHODS = frozenset({"POST", "PUT"})
"""Counted against a tenant's rate. Looking is bounded by connections and streams, and leaving is free."""

STATUS_DISCONNECTED = 499
"""In logs and metrics only: the client left before it was answered."""


class Edge:
    """The application as the server sees it, around all else."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        config: ServerConfig,
        authenticator: Authenticator,
        admit: Callable[[TenantId], None],
        max_body_bytes: int,
        metrics: Metrics,
        clock: Clock,
        fresh: IdSource,
    ) -> None:
        """`admit` counts a request that makes something, and raises when there are too many."""
        self._app = app
        self._config = config
        self._max_body_bytes = max_body_bytes
        self._authenticator = authenticator
        self._admit_request = admit
        self._metrics = metrics
        self._clock = clock
        self._fresh = fresh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; nothing that goes wrong in it gets past here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = self._clock.now_s()
        answer = _Answer(send, request_id=f"req_{self._fresh()}")
        scope[REQUEST_ID] = answer.request_id
        try:
            await self._serve(scope, receive, answer)
        finally:
            self._account(scope, answer, self._clock.now_s() - began_s)

    async def _serve(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            self._admit(scope)
            await self._app(scope, receive, answer.send)
        except DisconnectedError:
            answer.status = STATUS_DISCONNECTED
        except asyncio.CancelledError:
            # The server ends at once. Nothing is above this task that would have to learn it was cancelled.
            if answer.status:
                raise
            stopping = UnavailableError("the service is stopping", code="draining", data={"retry_after_s": 1})
            await self._refuse(stopping, scope, receive, answer)
        except ParrotError as error:
            await self._refuse(error, scope, receive, answer)
        except Exception as error:  # noqa: BLE001  a request's failure is its own: whatever it is ends here
            # Rendered here: a log processor that shows local variables would show prompts and keys.
            trace = fault_trace(error)
            log.error("request failed", request_id=answer.request_id, route=_route(scope), trace=trace)
            await self._refuse(internal_error(), scope, receive, answer)

    async def _refuse(self, error: ParrotError, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        if answer.status:
            raise error
        respond = openai_error_response if is_openai_path(scope["path"]) else error_response
        await respond(error, answer.request_id)(scope, receive, answer.send)

    def _admit(self, scope: Scope) -> None:
        config = self._config
        raw: list[tuple[bytes, bytes]] = scope["headers"]
        if len(raw) > config.max_headers:
            raise MalformedError(f"more than {config.max_headers} headers", code="bad_header")
        if sum(len(name) + len(value) for name, value in raw) > config.max_header_bytes:
            raise MalformedError(
                f"the headers are longer than {config.max_header_bytes:,} bytes", code="bad_header"
            )
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > config.max_uri_bytes:
            raise MalformedError(f"the URI is longer than {config.max_uri_bytes:,} bytes", code="bad_header")
        headers = single_headers(raw)
        if (scope["method"], scope["path"]) not in OPEN_ROUTES:
            scope[CALLER] = caller = self._authenticator.caller(headers.get(b"authorization"))
            if scope["method"] in MAKING_METHODS:
                self._admit_request(caller.tenant_id)
        length = content_length(headers)
        if length is not None and length > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        scope[HEADERS] = headers

    def _account(self, scope: Scope, answer: "_Answer", duration_s: float) -> None:
        route, status = _route(scope), answer.status or STATUS_DISCONNECTED
        self._metrics.observe(route, status, duration_s)
        if logger.isEnabledFor(logging.INFO):
            log.info(
                "request",
                method=scope["method"],
                route=route,
                status=status,
                ms=round(duration_s * 1000, 2),
                request_id=answer.request_id,
            )


class _Answer:
    """Watches an answer go out, and puts the request's id on it."""

    def __init__(self, send: Send, *, request_id: str) -> None:
        self.request_id = request_id
        self.status = 0
        """0 until the answer has begun."""
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
            message = {**message, "headers": headers}
        await self._send(message)


def _route(scope: Scope) -> str:
    """The template of the route that was found, or `unmatched`."""
    return cast("str", getattr(scope.get("route"), "path", "unmatched"))
