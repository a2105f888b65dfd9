"""The OpenAPI document: routes read their bodies themselves, so what they take is described here."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from parrot.errors import NotFoundError
from parrot.server.openai.bodies import CompletionBody
from parrot.server.openai.chat_bodies import ChatBody
from parrot.server.openai.response_bodies import ResponseBody
from parrot.server.parameters import caller_of
from parrot.wire.answers import ErrorEnvelope
from parrot.wire.functions import FunctionSpec
from parrot.wire.requests import CancelRequest, SessionCreate, SetVariable, SubmitCalls
from parrot.wire.runs import RunCreate, RunRequest

REF_TEMPLATE = "#/components/schemas/{model}"
REQUEST_MODELS: tuple[type[BaseModel], ...] = (
    SessionCreate,
    SubmitCalls,
    RunCreate,
    RunRequest,
    SetVariable,
    CancelRequest,
    FunctionSpec,
    CompletionBody,
    ChatBody,
    ResponseBody,
)

QUERY_FIELDS: dict[str, dict[str, object]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "after": {"type": "string"},
    "wait": {"type": "number", "minimum": 0, "default": 0},
    "objective": {"type": "string", "enum": ["latency", "throughput"]},
}

Handler = Callable[[Request], Awaitable[Response]]
Access = Literal["open", "tenant", "admin"]
"""Who may use a route: everybody, everybody with a key, or operators."""


class DirectRoute(APIRoute):
    """A route whose endpoint takes the request and gives the answer, with nothing in between.

    FastAPI describes it. Bodies are decoded strictly by `parrot.server.bodies`; dependencies are not used.
    """

    access: Access = "tenant"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint, for those who may see it: decided here, where it is known which route was found."""
        endpoint: Handler = self.endpoint

        async def handle(request: Request) -> Response:
            self.require_access(request.scope)
            return await endpoint(request)

        return handle

    def require_access(self, scope: Scope) -> None:
        """See that the caller may know of this route.

        Raises:
            AuthenticationError: it is not open, and nobody came in.
            NotFoundError: it is for operators only; the answer is that of a route that does not exist.
        """
        if self.access == "open":
            return
        if not caller_of(scope).admin and self.access == "admin":
            raise NotFoundError("no such route", code="no_route")


def describe(
    path: str,
    handler: Handler,
    method: str,
    answer: type[BaseModel] | None,
    *,
    status: int = 200,
    body: type[BaseModel] | None = None,
    query: tuple[str, ...] = (),
    headers: tuple[str, ...] = (),
    stream: bool = False,
    access: Access = "tenant",
) -> DirectRoute:
    """A route and its description."""
    parameters: list[dict[str, object]] = [
        {"name": piece[1:-1].partition(":")[0], "in": "path", "required": True, "schema": {"type": "string"}}
        for piece in path.split("/")
        if piece.startswith("{")
    ]
    parameters += [{"name": name, "in": "query", "schema": QUERY_FIELDS[name]} for name in query]
    parameters += [{"name": name, "in": "header", "schema": {"type": "string"}} for name in headers]
    extra: dict[str, object] = {"parameters": parameters} if parameters else {}
    if body is not None:
        schema = {"$ref": REF_TEMPLATE.format(model=body.__name__)}
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    failure: dict[str, Any] = {"model": ErrorEnvelope, "description": "The request was refused"}
    responses: dict[int | str, dict[str, Any]] = {
        "4XX": failure,
        "5XX": {**failure, "description": "The service cannot answer"},
    }
    if stream:
        responses[200] = {"description": "Server-sent events", "content": {"text/event-stream": {}}}
    route = DirectRoute(
        path,
        handler,
        methods=[method],
        response_model=answer,
        response_class=Response if answer is None else JSONResponse,
        status_code=status,
        responses=responses,
        openapi_extra=extra,
        summary=(handler.__doc__ or "").split(";")[0].split(".")[0],
    )
    route.access = access
    return route


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document, request models among its components."""
    text = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, definitions = models_json_schema(
        [(m, "validation") for m in REQUEST_MODELS], ref_template=REF_TEMPLATE
    )
    text["components"]["schemas"].update(definitions["$defs"])
    text["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    text["security"] = [{"key": []}]
    return text
