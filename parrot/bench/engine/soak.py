"""Minutes of random traffic at a full KV budget, after which nothing may have leaked, stalled or grown."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from statistics import linear_regression, median

import torch

from parrot.bench.engine.driver import EngineDriver, started
from parrot.bench.engine.soak_traffic import Traffic
from parrot.bench.engine.suite import PACKAGES, Tell
from parrot.bench.origin import Commit, Machine, commit, machine, peak_rss_bytes, versions
from parrot.engine.torch.config import TorchConfig
from parrot.engine.torch.kv_cache import KvShape
from parrot.engine.torch.models.registry import choose_model
from parrot.ports.clock import Clock
from parrot.ports.engine import EngineLoad

SCHEMA = "parrot.bench.soak/1"
"""Changes when a key changes its meaning or goes; new keys may come without."""
LOOK_S = 0.5
"""Between two looks at memory and progress."""
MAX_GROWTH_BYTES = 16 << 20
"""By so much may memory grow from the second quarter of a run to its last."""
MAX_SAMPLES = 120
"""So many are kept in the report."""
MIN_DONE_SHARE = 0.5
"""Of the operations that were not cancelled, so many must have been done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakConfig:
    """How long, and with what."""

    engine: TorchConfig
    """The engine under test; its KV memory is `num_blocks` blocks, whatever it says."""
    minutes: float = 10.0
    """Duration of the traffic."""
    seed: int = 0
    """Of all that is random."""
    num_blocks: int = 192
    """KV blocks: fewer than what the applications would hold."""
    round_s: float = 10.0
    """Traffic goes on for so long, then all that it made is freed and counted."""
    stall_s: float = 30.0
    """An engine that has requests and in all this time answers none of them is stuck."""
    num_applications: int = 12
    """Applications at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The process at one moment."""

    at_s: float
    """Seconds since the traffic began."""
    rss_bytes: int
    num_owned_blocks: int
    num_cached_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakReport:
    """What was found. Field names are the keys of its JSON (docs/reference/bench.md)."""

    schema: str
    started_at: str
    duration_s: float
    passed: bool
    faults: list[str]
    """What is wrong, in words; empty when it passed."""
    model: str
    machine: Machine
    versions: dict[str, str]
    source: Commit | None
    engine: str
    """Its description."""
    settings: dict[str, object]
    num_rounds: int
    """Times everything was freed and counted."""
    outcomes: dict[str, int]
    load: EngineLoad
    """The engine's counters at the end."""
    most_owned_blocks: int
    num_leaks: int
    longest_pause_s: float
    """The longest time in which requests were under way and none of them went on."""
    rss_growth_bytes: int
    """From the median of the second quarter to that of the last."""
    rss_slope_bytes_per_minute: float
    """Of a line through the samples after the first quarter."""
    peak_rss_bytes: int
    samples: list[Sample]


@dataclass(slots=True, kw_only=True)
class _Found:
    faults: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    num_rounds: int = 0
    longest_pause_s: float = 0.0


class _StuckError(Exception):
    """The engine answers no more."""


async def run_soak(config: SoakConfig, *, clock: Clock, tell: Tell) -> SoakReport:
    """Run it, for as long as the config says and a few seconds more.

    Raises:
        ConfigError: `bad_model` or `bad_config`.
    """
    started_at = datetime.fromtimestamp(clock.wall_s(), UTC)
    found = _Found()
    async with started(_full(config), clock=clock, seed=config.seed) as driver:
        tell(driver.engine.info.description)
        traffic = Traffic(driver.engine, driver.fresh_tokens, clock=clock, chance=Random(config.seed))  # noqa: S311
        began_s = clock.now_s()
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_watch(config, driver, traffic, found, clock))
                await _run_rounds(config, driver, traffic, found, clock=clock, tell=tell)
                watch.cancel()
        except* _StuckError as stuck:
            found.faults += [str(one) for one in stuck.exceptions]
        duration_s = clock.now_s() - began_s
        _judge(driver, traffic, found)
        info = driver.engine.info
        return SoakReport(
            schema=SCHEMA,
            started_at=started_at.isoformat(timespec="seconds"),
            duration_s=duration_s,
            passed=not found.faults,
            faults=found.faults,
            model=info.model,
            machine=machine(),
            versions=versions(PACKAGES),
            source=commit(),
            engine=info.description,
            settings={
                "minutes": config.minutes,
                "seed": config.seed,
                "num_blocks": info.num_blocks,
                "block_tokens": info.block_tokens,
                "num_applications": config.num_applications,
                "max_batch": info.max_batch,
                "step_tokens": config.engine.step_tokens,
            },
            num_rounds=found.num_rounds,
            outcomes=dict(sorted(traffic.outcomes.items())),
            load=driver.engine.load(),
            most_owned_blocks=max(sample.num_owned_blocks for sample in found.samples),
            num_leaks=driver.engine.num_leaks,
            longest_pause_s=found.longest_pause_s,
            rss_growth_bytes=_growth(found.samples),
            rss_slope_bytes_per_minute=_slope(found.samples),
            peak_rss_bytes=peak_rss_bytes(),
            samples=_thinned(found.samples),
        )


def _full(config: SoakConfig) -> TorchConfig:
    """The engine's config with memory for so many blocks and no more."""
    engine = config.engine
    shape = choose_model(Path(engine.model_dir)).shape
    dtype = shape.dtype if engine.dtype == "auto" else engine.dtype
    kv_shape = KvShape(
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        block_tokens=engine.block_tokens,
        dtype=torch.bfloat16 if dtype == "bfloat16" else torch.float32,
    )
    return replace(engine, kv_bytes=config.num_blocks * kv_shape.block_bytes)


async def _run_rounds(
    config: SoakConfig, driver: EngineDriver, traffic: Traffic, found: _Found, *, clock: Clock, tell: Tell
) -> None:
    ends_s = clock.now_s() + config.minutes * 60
    while (now_s := clock.now_s()) < ends_s:
        until_s = min(ends_s, now_s + config.round_s)
        await traffic.run(num_applications=config.num_applications, until_s=until_s)
        found.num_rounds += 1
        found.faults += await _count(driver, traffic, clock)
        load = driver.engine.load()
        tell(
            f"round {found.num_rounds}: {traffic.outcomes.total()} operations, "
            f"{load.num_preemptions} preemptions, {load.num_evictions} evictions, "
            f"{_rss_bytes() / 2**20:.0f} MiB, {len(found.faults)} faults"
        )


async def _count(driver: EngineDriver, traffic: Traffic, clock: Clock) -> list[str]:
    """What is wrong with the engine's blocks now that nothing is in use."""
    engine = driver.engine
    num_blocks = engine.info.num_blocks
    # What was cancelled is taken out by the step that is under way; a free is answered after it.
    await engine.free([])
    await clock.sleep(0)
    load = engine.load()
    faults = []
    # One that is forgotten may have lost its blocks to others by now: those alone would not show it.
    if engine.num_contexts:
        faults.append(f"the engine keeps {engine.num_contexts} contexts, and nobody uses one")
    if load.num_owned_blocks:
        faults.append(f"{load.num_owned_blocks} blocks are owned and no context is in use")
    if load.num_cached_blocks + load.num_free_blocks + load.num_owned_blocks != num_blocks:
        faults.append(f"the blocks do not add up to {num_blocks}: {load}")
    if not await traffic.take_everything():
        faults.append("one context could not have all the blocks although no other is in use")
    return faults


async def _watch(
    config: SoakConfig, driver: EngineDriver, traffic: Traffic, found: _Found, clock: Clock
) -> None:
    """Take samples, and raise once the engine is stuck."""
    began_s = clock.now_s()
    while True:
        now_s, load = clock.now_s(), driver.engine.load()
        found.samples.append(
            Sample(
                at_s=now_s - began_s,
                rss_bytes=_rss_bytes(),
                num_owned_blocks=load.num_owned_blocks,
                num_cached_blocks=load.num_cached_blocks,
            )
        )
        pause_s = now_s - traffic.last_progress_s if traffic.num_under_way else 0.0
        found.longest_pause_s = max(found.longest_pause_s, pause_s)
        if pause_s > config.stall_s:
            raise _StuckError(
                f"{traffic.num_under_way} operations were under way and none went on for {config.stall_s:g} s"
            )
        await clock.sleep(LOOK_S)


def _judge(driver: EngineDriver, traffic: Traffic, found: _Found) -> None:
    """Add what the whole run shows to be wrong."""
    load, outcomes = driver.engine.load(), traffic.outcomes
    found.faults += sorted(set(traffic.unexpected))
    if driver.engine.num_leaks:
        found.faults.append(f"an idle engine owned blocks {driver.engine.num_leaks} times")
    if not load.num_preemptions or not load.num_evictions:
        found.faults.append("memory was never short: no preemption or no eviction")
    if (growth := _growth(found.samples)) > MAX_GROWTH_BYTES:
        found.faults.append(f"memory grew by {growth / 2**20:.1f} MiB")
    for kind in ("fill", "generate", "generate bounded"):
        ended = sum(n for how, n in outcomes.items() if how.rpartition(" ")[0] == kind)
        tried = ended - outcomes[f"{kind} cancelled"]
        if outcomes[f"{kind} done"] < max(1, MIN_DONE_SHARE * tried):
            found.faults.append(f"{kind}: only {outcomes[f'{kind} done']} of {tried} were done")
    if not outcomes["generate cancelled"]:
        found.faults.append("nothing was cancelled")


def _growth(samples: Sequence[Sample]) -> int:
    quarter = max(1, len(samples) // 4)
    sizes = [sample.rss_bytes for sample in samples]
    return int(median(sizes[-quarter:]) - median(sizes[quarter : 2 * quarter] or sizes))


def _slope(samples: Sequence[Sample]) -> float:
    warm = samples[len(samples) // 4 :]
    if len(warm) < 2:
        return 0.0
    line = linear_regression([sample.at_s for sample in warm], [sample.rss_bytes for sample in warm])
    return line.slope * 60


def _thinned(samples: Sequence[Sample]) -> list[Sample]:
    return list(samples[:: -(-len(samples) // MAX_SAMPLES) or 1])


def _rss_bytes() -> int:
    """Memory that this process has resident; where the system does not tell, the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_rss_bytes()
    return pages * os.sysconf("SC_PAGE_SIZE")
