"""Routes for whoever operates the service: health, models, engines, limits, metrics."""

import os

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from parrot.core.service import Service
from parrot.errors import UnavailableError
from parrot.server.metrics import Metrics
from parrot.server.openapi import DirectRoute, describe
from parrot.server.parameters import query_of
from parrot.server.routes import json_answer
from parrot.wire.answers import EngineList, Health, ModelList


class OperationRoutes:
    """Handlers of what is about the service itself."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics

    def routes(self) -> list[DirectRoute]:
        """All routes, described."""
        return [
            describe("/healthz", self.healthz, "GET", Health),
            describe("/readyz", self.readyz, "GET", Health),
            describe("/metrics", self.metrics, "GET", None),
            describe("/v1/models", self.models, "GET", ModelList),
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
            return json_answer(health.model_copy(update={"pid": os.getpid()}))
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

    async def engines(self, request: Request) -> Response:
        """The engines and their loads."""
        query_of(request)
        return json_answer(self._service.engines())

    async def limits(self, request: Request) -> Response:
        """The limits that hold here."""
        query_of(request)
        return Response(msgspec.json.encode(self._service.limits_view()), media_type="application/json")
