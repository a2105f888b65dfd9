"""The ASGI application around one service."""

import asyncio
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from parrot.core.service import Service
from parrot.errors import NotFoundError, ParrotError, RequestError
from parrot.ports.chance import fresh_hex
from parrot.ports.clock import Clock, SystemClock
from parrot.server.auth import Authenticator, Caller
from parrot.server.bodies import BodyLimits, Turnstile
from parrot.server.config import ServerConfig
from parrot.server.edge import Edge
from parrot.server.functions import FunctionRoutes
from parrot.server.metrics import Metrics
from parrot.server.openai.responses import ResponseRoutes
from parrot.server.openai.routes import OpenAIRoutes
from parrot.server.openapi import DirectRoute, document
from parrot.server.operation import OperationRoutes
from parrot.server.parameters import caller_of
from parrot.server.routes import RouteConfig, SessionRoutes
from parrot.server.routing import Router
from parrot.server.streaming import StreamConfig
from parrot.types.ids import IdSource

DESCRIPTION = "A server for LLM applications: semantic variables, application graphs, shared prefixes."


class ParrotApp(FastAPI):
    """The application; `service` is what it serves.

    Setting `closing` makes streams end and long polls answer soon.
    """

    edge: Edge
    """Every request passes here first."""

    def __init__(self, service: Service, authenticator: Authenticator, **settings: Any) -> None:
        super().__init__(**settings)
        self.service = service
        self.authenticator = authenticator
        self.closing = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self.edge(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made on first use."""
        if self.openapi_schema is None:
            self.openapi_schema = document(self)
        return self.openapi_schema


def create_app(
    service: Service,
    config: ServerConfig,
    *,
    clock: Clock | None = None,
    fresh: IdSource = fresh_hex,
) -> ParrotApp:
    """The HTTP application for `service`, which is started and closed by the caller.

    Raises:
        ConfigError: the key file cannot be used.
    """
    clock = clock or SystemClock()
    metered = bool(config.keys) or config.keys_file is not None
    authenticator = Authenticator(
        config.keys,
        clock=clock,
        path=config.keys_file,
        on_terms=lambda terms: service.set_tenants(terms, metered=metered),
    )
    app = ParrotApp(
        service,
        authenticator,
        title="Parrot",
        version=service.health().version,
        description=DESCRIPTION,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    metrics = Metrics(service)
    routes = _route_config(service, config, app.closing, clock, authenticator)
    direct = [
        *SessionRoutes(service, routes).routes(),
        *FunctionRoutes(service, routes.small).routes(),
        *_openai_routes(service, routes, clock),
        *OperationRoutes(service, metrics, config, authenticator).routes(),
    ]
    app.router.routes += direct
    app.edge = Edge(
        Router(direct, otherwise=_described(app)),
        config=config,
        authenticator=authenticator,
        admit=service.admit_request,
        max_body_bytes=routes.submission.max_bytes,
        metrics=metrics,
        clock=clock,
        fresh=fresh,
    )
    return app


def _described(app: ParrotApp) -> ASGIApp:
    """What FastAPI answers by itself: its description, and why there is no route."""
    answer = ExceptionMiddleware(app.router, handlers={HTTPException: _routing_failed})

    async def otherwise(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = app
        await answer(scope, receive, send)

    return otherwise


def _openai_routes(service: Service, routes: RouteConfig, clock: Clock) -> list[DirectRoute]:
    longest_s = service.limits_view()["call_timeout_s"]
    return [
        *OpenAIRoutes(service, routes, max_stream_s=longest_s, clock=clock).routes(),
        *ResponseRoutes(service, routes, max_stream_s=longest_s, clock=clock).routes(),
    ]


def _route_config(
    service: Service,
    config: ServerConfig,
    closing: asyncio.Event,
    clock: Clock,
    authenticator: Authenticator,
) -> RouteConfig:
    limits = service.limits_view()
    batch_bytes, value_bytes = int(limits["max_batch_bytes"]), int(limits["max_value_bytes"])

    turnstile = Turnstile()

    def bodies(max_bytes: int) -> BodyLimits:
        return BodyLimits(
            max_bytes=min(max_bytes, batch_bytes),
            max_depth=int(limits["max_json_depth"]),
            max_keys=int(limits["max_json_keys"]),
            timeout_s=config.body_timeout_s,
            turnstile=turnstile,
        )

    return RouteConfig(
        submission=bodies(batch_bytes),
        value=bodies(6 * value_bytes + 1024),  # a character of a value may be written as \u1234
        small=bodies(int(limits["max_call_bytes"])),
        streams=StreamConfig(
            heartbeat_s=config.heartbeat_s,
            max_stream_s=limits["max_stream_s"],
            closing=closing,
            clock=clock,
            authenticator=authenticator,
        ),
        max_wait_s=limits["max_wait_s"],
        closing=closing,
    )


async def _routing_failed(request: Request, error: Exception) -> Response:
    """Turn what the router raises into an error of ours; the edge answers it."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    caller = caller_of(request.scope)
    allow = _allowed_methods(request, caller) if status == 405 else ""
    if allow:
        message = f"this route takes {allow}"
        raise RequestError(message, code="method_not_allowed", data={"allow": allow}) from None
    if status in {404, 405}:
        raise NotFoundError("no such route", code="no_route") from None
    raise ParrotError("the service hit a fault of its own") from error


def _allowed_methods(request: Request, caller: Caller) -> str:
    """Methods of the routes at this path that the caller may know of."""
    matching = [
        route
        for route in request.app.router.routes
        if route.matches(request.scope)[0] is not Match.NONE
        and (caller.admin or getattr(route, "access", "tenant") != "admin")
    ]
    return ", ".join(sorted({method for route in matching for method in route.methods or ()}))
