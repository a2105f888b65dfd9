"""What servers tell about themselves while applications run on them."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import httpx2
from pydantic import ValidationError

from parrot.ports.clock import Clock
from parrot.wire.answers import EngineList

SAMPLE_S = 0.5
"""How often the KV in use is asked for during a run; each costs the server about a millisecond."""

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """A server's counts; those of a run are the difference of two."""

    prompt_tokens: int | None = None
    """Looked up in the cache."""
    cached_tokens: int | None = None
    prefilled_tokens: int | None = None
    used_kv_tokens: int | None = None
    """In use now."""


class Gauges(Protocol):
    """Reads one server's counters."""

    async def read(self) -> Counters:
        """The counts as they are now; what the server does not tell is None."""
        ...

    async def settings(self) -> Mapping[str, str]:
        """What the server says of its own settings."""
        ...


class NoGauges:
    """Of a server that tells nothing."""

    async def read(self) -> Counters:
        """Nothing."""
        return Counters()

    async def settings(self) -> Mapping[str, str]:
        """Nothing."""
        return {}


class ParrotGauges:
    """Of a Parrot service: the sums over its engines."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def read(self) -> Counters:
        """The engines' counts."""
        engines = (await self._engines()).engines
        return Counters(
            prefilled_tokens=sum(engine.num_prefilled_tokens for engine in engines),
            used_kv_tokens=sum(engine.num_owned_blocks * engine.block_tokens for engine in engines),
        )

    async def settings(self) -> Mapping[str, str]:
        """The engines, in words."""
        engines = (await self._engines()).engines
        return {
            engine.engine_id: f"{engine.model} on {engine.device}, {engine.description}" for engine in engines
        }

    async def _engines(self) -> EngineList:
        response = await self._http.get("/v1/engines")
        response.raise_for_status()
        return EngineList.model_validate_json(response.content)


class VllmGauges:
    """Of a vLLM server, from its metrics."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self._kv_tokens: int | None = None
        self._settings: Mapping[str, str] = {}

    async def read(self) -> Counters:
        """Its counts of prefix caching, and how full its KV is."""
        values, _ = await self._samples()
        queries, hits = (
            values.get("vllm:prefix_cache_queries_total"),
            values.get("vllm:prefix_cache_hits_total"),
        )
        usage = values.get("vllm:kv_cache_usage_perc")
        known = queries is not None and hits is not None
        return Counters(
            prompt_tokens=round(queries or 0) if known else None,
            cached_tokens=round(hits or 0) if known else None,
            prefilled_tokens=round((queries or 0) - (hits or 0)) if known else None,
            used_kv_tokens=None
            if usage is None or self._kv_tokens is None
            else round(usage * self._kv_tokens),
        )

    async def settings(self) -> Mapping[str, str]:
        """Its cache's settings."""
        _, labels = await self._samples()
        self._settings = labels.get("vllm:cache_config_info", {})
        blocks = self._settings.get("num_gpu_blocks", "")
        block = self._settings.get("block_size", "")
        if blocks.isdigit() and block.isdigit():
            self._kv_tokens = int(blocks) * int(block)
        wanted = (
            "block_size",
            "enable_prefix_caching",
            "num_gpu_blocks",
            "cache_dtype",
            "prefix_caching_hash_algo",
        )
        return {name: self._settings[name] for name in wanted if name in self._settings}

    async def _samples(self) -> tuple[dict[str, float], dict[str, dict[str, str]]]:
        response = await self._http.get("/metrics")
        response.raise_for_status()
        return parse_metrics(response.text)


def parse_metrics(text: str) -> tuple[dict[str, float], dict[str, dict[str, str]]]:
    """Each metric's sum over its labels, and the labels of its last sample; from Prometheus' text format."""
    values: dict[str, float] = {}
    labels: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if (found := _SAMPLE.match(line)) is None:
            continue
        name, inside, value = found.groups()
        try:
            values[name] = values.get(name, 0.0) + float(value)
        except ValueError:
            continue
        labels[name] = dict(_LABEL.findall(inside or ""))
    return values, labels


async def find_gauges(http: httpx2.AsyncClient) -> Gauges:
    """The gauges of whatever answers there."""
    for gauges in (ParrotGauges(http), VllmGauges(http)):
        try:
            counters = await gauges.read()
        except (httpx2.HTTPError, ValidationError):
            continue
        if counters != Counters():
            return gauges
    return NoGauges()


class Watch:
    """The highest use of KV that was seen."""

    def __init__(self) -> None:
        self.peak_kv_tokens: int | None = None

    def see(self, counters: Counters) -> None:
        """Take one look into account."""
        if counters.used_kv_tokens is not None:
            self.peak_kv_tokens = max(self.peak_kv_tokens or 0, counters.used_kv_tokens)


@asynccontextmanager
async def watched(gauges: Gauges, clock: Clock) -> AsyncIterator[Watch]:
    """Look at the KV in use from time to time while the block runs. Servers keep no maximum."""
    watch = Watch()
    if isinstance(gauges, NoGauges):
        yield watch
        return
    looking = asyncio.create_task(_look(gauges, clock, watch))
    try:
        yield watch
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def _look(gauges: Gauges, clock: Clock, watch: Watch) -> None:
    while True:
        await clock.sleep(SAMPLE_S)
        watch.see(await gauges.read())
