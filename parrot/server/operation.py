"""Routes for whoever operates the service: health, models, engines, limits, metrics."""

import os

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from parrot.core.service import Service
from parrot.errors import UnavailableError
from parrot.server.auth import Authenticator
from parrot.server.config import ServerConfig
from parrot.server.metrics import Metrics
from parrot.server.openapi import DirectRoute, describe
from parrot.server.parameters import caller_of, query_of, tenant_of
from parrot.server.routes import json_answer
from parrot.wire.answers import ENGINE_LOAD, EngineList, Health, ModelList, ModelView

SERVER_LIMITS = (
    "max_connections",
    "max_connections_per_address",
    "max_header_bytes",
    "max_headers",
    "max_uri_bytes",
    "header_timeout_s",
    "body_timeout_s",
    "keep_alive_s",
)
"""Settings of the server that bound requests; `/v1/limits` tells them with the others."""


class OperationRoutes:
    """Handlers of what is about the service itself."""

    def __init__(
        self, service: Service, metrics: Metrics, config: ServerConfig, authenticator: Authenticator
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._config = config
        self._authenticator = authenticator

    def routes(self) -> list[DirectRoute]:
        """All routes, described."""
        return [
            describe("/healthz", self.healthz, "GET", Health, access="open"),
            describe("/readyz", self.readyz, "GET", Health),
            describe("/metrics", self.metrics, "GET", None, access="admin"),
            describe("/v1/models", self.models, "GET", ModelList),
            describe("/v1/models/{model:path}", self.model, "GET", ModelView),
            describe("/v1/engines", self.engines, "GET", EngineList),
            describe("/v1/limits", self.limits, "GET", None),
        ]

    async def healthz(self, _request: Request) -> Response:
        """Whether the process lives; always 200 while it does."""
        return json_answer(self._service.health().model_copy(update={"pid": os.getpid()}))

    async def readyz(self, _request: Request) -> Response:
        """Whether the service takes work: 200, or 503 with the reason."""
        health = self._service.health()
        if health.status == "ok":
            failure = self._authenticator.failure
            detail = health.detail if failure is None else f"the keys stay as they were: {failure.message}"
            return json_answer(health.model_copy(update={"pid": os.getpid(), "detail": detail}))
        raise UnavailableError(
            health.detail or f"the service is {health.status}",
            code="draining" if health.status == "draining" else "unavailable",
            data={"status": health.status, "version": health.version},
        )

    async def metrics(self, _request: Request) -> Response:
        """Counters, gauges and histograms in Prometheus' text format."""
        return Response(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def models(self, request: Request) -> Response:
        """The models that are served."""
        query_of(request)
        return json_answer(self._service.models())

    async def model(self, request: Request) -> Response:
        """One model that is served; its name may have slashes."""
        query_of(request)
        return json_answer(self._service.model(request.path_params["model"]))

    async def engines(self, request: Request) -> Response:
        """The engines; with their loads for operators, which is everybody where there are no keys."""
        query_of(request)
        found = self._service.engines()
        if caller_of(request.scope).admin:
            return json_answer(found)
        bare = found.model_dump(mode="json", exclude={"engines": {"__all__": set(ENGINE_LOAD)}})
        return Response(msgspec.json.encode(bare | {"has_loads": False}), media_type="application/json")

    async def limits(self, request: Request) -> Response:
        """The limits that hold here for whoever asks, those of the HTTP service itself among them."""
        query_of(request)
        limits = self._service.limits_view(tenant_of(request))
        of_server = {name: getattr(self._config, name) for name in SERVER_LIMITS}
        return Response(msgspec.json.encode(limits | of_server), media_type="application/json")
