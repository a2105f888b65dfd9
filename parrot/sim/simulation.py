"""One simulation: engines, a service with a policy, clients and their arrivals, on a virtual clock."""

import asyncio
import gc
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from parrot.core.limits import Limits
from parrot.core.policies import POLICIES
from parrot.core.service import Service
from parrot.core.service_config import Ingredient, PolicyName, ServiceConfig
from parrot.errors import ConfigError
from parrot.ports.engine import EngineLoad
from parrot.sim.application import Application
from parrot.sim.chance import counted_ids, stream
from parrot.sim.clients import Client, ClientKind, Measured, RoundTrip, measured_round_trip, no_round_trip
from parrot.sim.engine import SimulatedConfig, SimulatedEngine, start_simulated
from parrot.sim.loop import VirtualClock, VirtualLoop, run_virtual
from parrot.sim.store import ForgetfulStore
from parrot.types.ids import EngineId

SETTLE_S = 600.0
"""Virtual seconds between the end of the last application and the last look at the engines."""
_NEVER_S = 1e9
_SWEEP_S = 1e5
_MANY = 10**9

LIMITS = Limits(
    max_sessions=_MANY,
    session_idle_ttl_s=_NEVER_S,
    session_ttl_s=_NEVER_S,
    call_timeout_s=1e7,
    execution_timeout_s=1e7,
    max_wait_s=_NEVER_S,
    max_pending_calls=1_000_000,
)
"""A simulated service refuses nothing for being large, and gives up a call only when nothing can help it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An application and when it begins."""

    at_s: float
    application: Application


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    """Everything about a simulation but its workload."""

    engines: tuple[SimulatedConfig, ...]
    """One for each engine."""
    policy: str = "app-centric"
    """How ready calls are given to engines; a name of `core.policies.POLICIES`."""
    client: ClientKind = "graph"
    """Whether clients send whole applications, or one request at a time."""
    round_trip: float | None = 0.0
    """Seconds between client and service and back; None draws them as the paper's were."""
    without: tuple[Ingredient, ...] = ()
    """Ingredients of the service that are switched off."""
    max_concurrent: int | None = None
    """Applications that run at one time; later ones wait at the client."""
    hints: bool = False
    """Clients that send requests say with each how its application is waited for."""
    with_calls: bool = False
    """Keep the record of every call."""
    seed: int = 0
    """Another seed, other chance."""

    def __post_init__(self) -> None:
        if not self.engines:
            raise ConfigError("a simulation needs an engine", param="engines")
        if self.policy not in POLICIES:
            known = ", ".join(POLICIES)
            raise ConfigError(f"no policy {self.policy!r}; there are {known}", param="policy")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise ConfigError("max_concurrent must be at least 1", param="max_concurrent")


@dataclass(slots=True, kw_only=True)
class Report:
    """What a simulation found."""

    num_applications: int = 0
    num_calls: int = 0
    num_errors: int = 0
    ended_at_s: float = 0.0
    """Virtual seconds until the last application had ended."""
    jct_s: "dict[str, array[float]]" = field(default_factory=dict)
    """Job completion times by kind of application, in order of completion."""
    per_token_s: "dict[str, array[float]]" = field(default_factory=dict)
    """Normalised latency: job completion time over output tokens, likewise."""
    engines: dict[EngineId, EngineLoad] = field(default_factory=dict)
    """Every engine at the end."""
    num_prompt_tokens: int = 0
    num_shared_tokens: int = 0
    num_output_tokens: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    """How many applications ended with which error."""

    def add(self, measured: Measured) -> None:
        """Count one application."""
        self.num_applications += 1
        self.num_calls += measured.num_calls
        if measured.error is not None:
            self.num_errors += 1
            self.errors[measured.error] = self.errors.get(measured.error, 0) + 1
            return
        self.jct_s.setdefault(measured.kind, array("d")).append(measured.jct_s)
        per_token = self.per_token_s.setdefault(measured.kind, array("d"))
        per_token.append(measured.jct_s / measured.num_output_tokens)

    def all_jct_s(self) -> list[float]:
        """Job completion times of all kinds."""
        return [each for times in self.jct_s.values() for each in times]


Observer = Callable[[Measured], None]


def simulate(config: SimulationConfig, jobs: Iterable[Job], *, observe: Observer | None = None) -> Report:
    """Run `jobs`, which come in order of time and are taken one by one, to their end.

    The same configuration and jobs give the same report, in every process.

    Raises:
        StalledError: everything waits for something that cannot happen.
    """
    with _patient_collector():
        return run_virtual(lambda loop: _simulate(loop, config, jobs, observe))


@contextmanager
def _patient_collector() -> Iterator[None]:
    """Look for cyclic garbage seldom: there is little, and looking takes a quarter of the time."""
    before = gc.get_threshold()
    gc.set_threshold(500_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def _simulate(
    loop: VirtualLoop, config: SimulationConfig, jobs: Iterable[Job], observe: Observer | None
) -> Report:
    clock = VirtualClock(loop)
    started: list[SimulatedEngine] = []
    service = Service(
        config=ServiceConfig(
            policy=cast("PolicyName", config.policy), without=config.without, sweep_interval_s=_SWEEP_S
        ),
        limits=LIMITS,
        store=ForgetfulStore(),
        engines={
            engine_id: start_simulated(engine, engine_id, started.append)
            for engine_id, engine in zip(engine_ids(len(config.engines)), config.engines, strict=True)
        },
        clock=clock,
        fresh=counted_ids(),
    )
    await service.start()
    await service.wait_ready()
    # Every engine comes up at the first instant; the first calls come when all of them are there.
    await asyncio.sleep(0)
    client = Client(
        service,
        clock,
        kind=config.client,
        round_trip=_round_trip(config),
        with_calls=config.with_calls,
        hints=config.hints,
    )
    report = Report()
    try:
        await _drive(config, client, jobs, clock, report, observe)
        report.ended_at_s = clock.now_s()
        # What was being filled ahead for calls that ran without it comes to its end.
        await clock.sleep(SETTLE_S)
        report.engines = {engine.info.engine_id: engine.load() for engine in started}
        counters = service.counters()
        report.num_prompt_tokens = counters.get("prompt_tokens", 0)
        report.num_shared_tokens = counters.get("shared_tokens", 0)
        report.num_output_tokens = counters.get("output_tokens", 0)
    finally:
        await service.close()
    return report


async def _drive(
    config: SimulationConfig,
    client: Client,
    jobs: Iterable[Job],
    clock: VirtualClock,
    report: Report,
    observe: Observer | None,
) -> None:
    slots = asyncio.Semaphore(config.max_concurrent) if config.max_concurrent is not None else None

    async def run(application: Application) -> None:
        try:
            measured = await client.run(application)
        finally:
            if slots is not None:
                slots.release()
        report.add(measured)
        if observe is not None:
            observe(measured)

    began_at_s = clock.now_s()
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            wait_s = began_at_s + job.at_s - clock.now_s()
            if wait_s > 0:
                await clock.sleep(wait_s)
            if slots is not None:
                await slots.acquire()
            group.create_task(run(job.application))


def engine_ids(count: int) -> list[EngineId]:
    """The names of so many engines."""
    return [EngineId(f"engine-{number}") for number in range(count)]


def _round_trip(config: SimulationConfig) -> RoundTrip:
    if config.round_trip is None:
        return measured_round_trip(stream(config.seed, "round trips"))
    if config.round_trip == 0:
        return no_round_trip
    constant_s = config.round_trip
    return lambda: constant_s
