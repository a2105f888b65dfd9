"""From a request's path to its handler, with nothing in between.

Routes are FastAPI's, which describes them; its own way to a handler passes every route's pattern and half a
dozen layers, for things that are not used here. What is not found here is for it to say, and so are routes
whose parameters are more than one piece of a path.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from parrot.server.openapi import DirectRoute


@dataclass(slots=True)
class _Place:
    """Where one piece of a path leads."""

    routes: dict[str, DirectRoute] = field(default_factory=dict)
    """By method, when the path ends here."""
    fixed: dict[str, "_Place"] = field(default_factory=dict)
    any: "_Place | None" = None
    """Where every other piece leads that is not empty."""
    name: str = ""
    """Of the parameter that `any` takes."""


class Router:
    """An ASGI application that answers what one of `routes` is for, and hands on the rest."""

    def __init__(self, routes: Sequence[DirectRoute], otherwise: ASGIApp) -> None:
        self._root = _Place()
        self._otherwise = otherwise
        for route in routes:
            if ":" not in route.path:
                self._add(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        is_plain = scope["type"] == "http" and not scope.get("root_path")
        found = self.find(scope["method"], scope["path"]) if is_plain else None
        if found is None:
            await self._otherwise(scope, receive, send)
            return
        route, scope["path_params"] = found
        scope["route"] = route
        route.require_access(scope)
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    def find(self, method: str, path: str) -> tuple[DirectRoute, dict[str, str]] | None:
        """The route of a decoded path, and what its parameters are."""
        first, *pieces = path.split("/")
        return None if first else _find(self._root, pieces, 0, method)

    def _add(self, route: DirectRoute) -> None:
        place = self._root
        for piece in route.path.split("/")[1:]:
            if not piece.startswith("{"):
                place = place.fixed.setdefault(piece, _Place())
                continue
            name = piece[1:-1]
            assert place.name in ("", name), "one place has one parameter"
            place.name, place.any = name, place.any or _Place()
            place = place.any
        place.routes.update(dict.fromkeys(route.methods or (), route))


def _find(
    place: _Place, pieces: Sequence[str], at: int, method: str
) -> tuple[DirectRoute, dict[str, str]] | None:
    """The route below a place that takes the pieces from `at` on; a name goes before what takes any."""
    if at == len(pieces):
        route = place.routes.get(method)
        return None if route is None else (route, {})
    piece = pieces[at]
    fixed = place.fixed.get(piece)
    found = _find(fixed, pieces, at + 1, method) if fixed is not None else None
    if found is None and place.any is not None and piece:
        found = _find(place.any, pieces, at + 1, method)
        if found is not None:
            found[1][place.name] = piece
    return found
