"""`GET /metrics`: what the service counts, in Prometheus' text format. No label carries a tenant's text."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from parrot.core.service import Service
from parrot.wire.answers import EngineView

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

SERVICE_GAUGES = frozenset({"sessions_open", "calls_running", "calls_waiting", "waiters", "prefixes_wanted"})
"""Which of the service's counts also go down."""

ENGINE_GAUGES = {
    "num_running": "Requests in the engine's batch.",
    "num_waiting": "Requests waiting in the engine.",
    "num_owned_blocks": "KV blocks held by contexts in use.",
    "num_cached_blocks": "KV blocks held by retained contexts.",
    "num_free_blocks": "KV blocks that are free.",
}
ENGINE_COUNTERS = {
    "num_prefilled_tokens": "Tokens computed by fills.",
    "num_decoded_tokens": "Tokens generated.",
    "num_preemptions": "Requests that had to give up their memory for a while.",
    "num_evictions": "Retained contexts that were evicted.",
    "num_restarts": "Times the engine was started again.",
}


class Metrics:
    """The registry of one service, and the histogram that every request is entered into."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_ServiceCollector(service))
        ProcessCollector(registry=self._registry)
        self._requests = Histogram(
            "parrot_http_request_seconds",
            "Time to answer a request, long polls and streams included.",
            ("route", "status"),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._children: dict[tuple[str, int], Histogram] = {}

    def observe(self, route: str, status: int, duration_s: float) -> None:
        """Enter one request; `route` is the template, never the path that was asked for."""
        child = self._children.get((route, status))
        if child is None:
            child = self._children[route, status] = self._requests.labels(route, str(status))
        child.observe(duration_s)

    def text(self) -> bytes:
        """Everything, in the text format."""
        return generate_latest(self._registry)


class _ServiceCollector(Collector):
    """Reads the service's counters and its engines' loads when asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        for name, value in self._service.counters().items():
            words = name.replace("_", " ")
            if name in SERVICE_GAUGES:
                yield GaugeMetricFamily(f"parrot_{name}", f"How many {words} now.", value=value)
            else:
                yield CounterMetricFamily(f"parrot_{name}", f"How many {words} since the start.", value=value)
        engines = self._service.engines().engines
        up = GaugeMetricFamily(
            "parrot_engine_up", "1 when the engine takes work.", labels=("engine_id", "model")
        )
        for engine in engines:
            up.add_metric((engine.engine_id, engine.model), float(engine.state == "up"))
        yield up
        yield from self._loads(engines)

    def _loads(self, engines: tuple[EngineView, ...]) -> Iterable[Metric]:
        kinds: tuple[tuple[dict[str, str], type[GaugeMetricFamily] | type[CounterMetricFamily]], ...] = (
            (ENGINE_GAUGES, GaugeMetricFamily),
            (ENGINE_COUNTERS, CounterMetricFamily),
        )
        for fields, family_class in kinds:
            for field, text in fields.items():
                name = f"parrot_engine_{field.removeprefix('num_')}"
                family = family_class(name, text, labels=("engine_id", "model"))
                for engine in engines:
                    family.add_metric((engine.engine_id, engine.model), getattr(engine, field))
                yield family
