"""The quick way to a handler is the one that FastAPI would go."""

from typing import Any

import pytest
from server_fakes import FakeService, app_of
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from parrot.server.app import ParrotApp
from parrot.server.openapi import DirectRoute
from parrot.server.routing import Router

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS")
ODD = [
    "",
    "/",
    "//",
    "/v1",
    "/v1/",
    "/v1/run/",
    "/v1/sessions/",
    "//v1/sessions",
    "/v1//sessions",
    "v1/sessions",
]
ODD += [
    "/v1/sessions//calls",
    "/v1/sessions/a/calls/",
    "/v1/sessions/a b/calls",
    "/v1/sessions/a/variables/x/y",
]
ODD += [
    "/healthz/x",
    "/HEALTHZ",
    "/openapi.json",
    "/v1/functions/run",
    "/v1/sessions/run/run",
    "/v1/sessions/é",
]


def direct_routes(app: ParrotApp) -> list[DirectRoute]:
    return [route for route in app.router.routes if isinstance(route, DirectRoute)]


def as_fastapi_finds(app: ParrotApp, method: str, path: str) -> tuple[Any, dict[str, str]] | None:
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    for route in app.router.routes:
        match, found = route.matches(scope)
        if match is Match.FULL:
            is_quick = isinstance(route, DirectRoute) and ":" not in route.path
            return (route, found["path_params"]) if is_quick else None
    return None


def test_every_path_leads_where_fastapi_leads_it() -> None:
    app = app_of(FakeService())
    routes = direct_routes(app)
    router = Router(routes, app.router)
    paths = [route.path.replace("{", "some-").replace("}", "%2f.x") for route in routes]
    known = 0
    for path in (*paths, *ODD):
        for method in METHODS:
            found = router.find(method, path)
            assert found == as_fastapi_finds(app, method, path), (method, path)
            known += found is not None
    assert known >= sum(":" not in route.path for route in routes)


async def test_what_is_not_found_is_handed_on() -> None:
    seen: list[str] = []

    async def otherwise(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    router: Any = Router(direct_routes(app_of(FakeService())), otherwise)
    await router({"type": "http", "method": "GET", "path": "/nowhere"}, None, None)
    await router({"type": "http", "method": "GET", "path": "/healthz", "root_path": "/x"}, None, None)
    await router({"type": "lifespan"}, None, None)
    assert seen == ["http", "http", "lifespan"]


def test_a_place_has_one_parameter() -> None:
    app = app_of(FakeService())
    one = direct_routes(app)[0]
    clash = DirectRoute("/v1/sessions/{other}", one.endpoint, methods=["PATCH"])
    with pytest.raises(AssertionError, match="one parameter"):
        Router([*direct_routes(app), clash], app.router)
