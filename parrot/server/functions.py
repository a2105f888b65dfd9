"""Routes of registered functions."""

from starlette.requests import Request
from starlette.responses import Response

from parrot.core.service import Service
from parrot.server.bodies import BodyLimits, read_body
from parrot.server.openapi import DirectRoute, describe
from parrot.server.parameters import page, query_of, tenant_of
from parrot.server.routes import json_answer
from parrot.wire.functions import FunctionList, FunctionSpec, FunctionView, WarmAnswer


class FunctionRoutes:
    """Handlers of `/v1/functions…`."""

    def __init__(self, service: Service, limits: BodyLimits) -> None:
        self._service = service
        self._limits = limits

    def routes(self) -> list[DirectRoute]:
        """All routes, described."""
        every, one = "/v1/functions", "/v1/functions/{ref}"
        return [
            describe(every, self.list_all, "GET", FunctionList, query=("limit", "after")),
            describe(one, self.register, "PUT", FunctionView, body=FunctionSpec),
            describe(one, self.read, "GET", FunctionView),
            describe(one, self.remove, "DELETE", None, status=204),
            describe(f"{one}/warm", self.warm, "POST", WarmAnswer),
        ]

    async def list_all(self, request: Request) -> Response:
        """The latest version of each registered function, by name."""
        limit, after = page(query_of(request, "limit", "after"))
        found = self._service.functions.list_all(tenant_of(request), limit=limit, after=after)
        return json_answer(found, exclude={"next"} if found.next is None else None)

    async def register(self, request: Request) -> Response:
        """Register a semantic function, or a new version of it; 201 when something is new."""
        query_of(request)
        body = await read_body(request, FunctionSpec, self._limits)
        done = await self._service.functions.register(tenant_of(request), _ref(request), body.model)
        return json_answer(done.view, 201 if done.created else 200)

    async def read(self, request: Request) -> Response:
        """A registered function: the latest version, or the one that is named."""
        query_of(request)
        return json_answer(self._service.functions.read(tenant_of(request), _ref(request)))

    async def remove(self, request: Request) -> Response:
        """Remove a registered function with all its versions."""
        query_of(request)
        await self._service.functions.remove(tenant_of(request), _ref(request))
        return Response(status_code=204)

    async def warm(self, request: Request) -> Response:
        """Fill a function's constant beginning on every engine of its model."""
        query_of(request)
        return json_answer(await self._service.functions.warm(tenant_of(request), _ref(request)))


def _ref(request: Request) -> str:
    return str(request.path_params["ref"])
