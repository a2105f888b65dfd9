"""How fast planning is: the simulator as a whole, one scheduling round, and what a change costs among many
calls that live. Everything is counted in processor time of this process, which runs in one thread, but for
simulations that run at the same time in processes of their own.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from os import getloadavg

from parrot.bench.origin import Commit, Machine, commit, machine, peak_rss_bytes, versions
from parrot.bench.spread import Spread, spread
from parrot.core.estimates import Work
from parrot.core.fairness import FairQueue, WaitingCall
from parrot.core.policies import POLICIES
from parrot.core.prefixes import PrefixIndex
from parrot.core.roster import EngineState, Roster
from parrot.core.scheduler import ReadyCall, Snapshot
from parrot.core.service import Service
from parrot.core.service_config import ServiceConfig
from parrot.ports.clock import SystemClock
from parrot.sim.application import Application, call_json
from parrot.sim.chance import counted_ids, stream
from parrot.sim.comparison import Workload
from parrot.sim.cost import PRESETS
from parrot.sim.engine import SimulatedConfig, start_simulated
from parrot.sim.loop import VirtualClock, VirtualLoop, run_virtual
from parrot.sim.side_by_side import Task, run_side_by_side
from parrot.sim.simulation import LIMITS, Job, Report, SimulationConfig, engine_ids, simulate
from parrot.sim.store import ForgetfulStore
from parrot.sim.workloads import chain_summary
from parrot.types.ids import DEFAULT_TENANT, CallId, EngineId, SessionId
from parrot.wire.requests import SessionCreate, SubmitCalls

SCHEMA = "parrot.bench.sim-speed/1"
"""Changes when a key changes its meaning or goes; new keys may come without."""
PRESET = "a100-80g-13b"
APPS = ("mapreduce", "chain", "chat")
TOGETHER_ENGINES = 64
ROUND_ENGINES = 64
ROUND_CALLS = 1000
CALLS_PER_SESSION = 20
LONG_ENGINES = 64
LONG_RATE = 0.125
"""Mapreduces that come to each engine in a second of a long run: about half of what it can do, so that no
queue grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSpeedPlan:
    """What is measured."""

    engines: tuple[int, ...] = (4, 64, 1000)
    """Sizes of the simulated fleets."""
    calls: int = 4000
    """About so many calls of each application are simulated."""
    live: tuple[int, ...] = (1000, 10_000, 100_000)
    """Calls that wait for a client while others run."""
    repeats: int = 20
    """Of each kind of round."""
    jobs: int = 1
    """With more than one, so many simulations are run at the same time too."""
    long: int | None = None
    """In place of all that: a simulation of a tenth of so many calls, and one of so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """One simulation."""

    app: str
    num_engines: int
    num_calls: int
    cpu_s: float
    calls_per_cpu_s: float
    mean_jct_s: float
    """Virtual seconds: the same on every machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Simulations that run at the same time, in a process each, as those of `parrot sim paper` do."""

    app: str
    num_engines: int
    num_processes: int
    num_calls: int
    """Of all of them."""
    real_s: float
    """From when the first began until the last had ended."""
    calls_per_real_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Scheduling rounds of the app-centric policy, fair order and engines' orders included."""

    num_engines: int
    num_waiting: int
    one_changed_s: Spread
    """One engine has a place again, and one call gets it."""
    all_placed_s: Spread
    """All of them are placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Calls run to their end while others wait."""

    num_live: int
    cpu_s_per_call: float
    rss_bytes: int
    """The process's peak so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRun:
    """A simulation of very many calls."""

    app: str
    num_engines: int
    num_calls: int
    num_errors: int
    cpu_s: float
    calls_per_cpu_s: float
    simulated_s: float
    """Virtual seconds until the last application had ended."""
    rss_bytes: int
    """The process's peak so far; shorter ones come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSpeedReport:
    """Everything that was measured, and where."""

    schema: str
    started_at: str
    machine: Machine
    load_average: float
    versions: dict[str, str]
    source: Commit | None
    settings: dict[str, object]
    simulated: tuple[Simulated, ...]
    together: tuple[Together, ...]
    rounds: Rounds | None
    live: tuple[Live, ...]
    long: tuple[LongRun, ...]
    peak_rss_bytes: int
    command: str


def run_sim_speed(plan: SimSpeedPlan, *, tell: Callable[[str], None]) -> SimSpeedReport:
    """Measure one after the other."""
    started_at, load = datetime.now(UTC).isoformat(timespec="seconds"), getloadavg()[0]
    rounds: Rounds | None = None
    live: list[Live] = []
    simulated: list[Simulated] = []
    together: list[Together] = []
    long: list[LongRun] = []
    if plan.long is not None:
        for num_calls in (plan.long // 10, plan.long):
            tell(f"{num_calls} calls")
            long.append(_long_run(num_calls))
    else:
        rounds = _rounds(plan.repeats)
        for num_live in plan.live:
            tell(f"{num_live} live calls")
            live.append(run_virtual(partial(_live, num_live=num_live)))
        for app in APPS:
            for num_engines in plan.engines:
                tell(f"{app} on {num_engines} engines")
                simulated.append(_simulated(app, num_engines, plan.calls))
        if plan.jobs > 1:
            for app in APPS:
                tell(f"{app}, {plan.jobs} simulations at the same time")
                together.append(_together(app, plan))
    return SimSpeedReport(
        schema=SCHEMA,
        started_at=started_at,
        machine=machine(),
        load_average=load,
        versions=versions(("pydantic",)),
        source=commit(),
        settings=asdict(plan),
        simulated=tuple(simulated),
        together=tuple(together),
        rounds=rounds,
        live=tuple(live),
        long=tuple(long),
        peak_rss_bytes=peak_rss_bytes(),
        command="parrot sim speed" if plan.long is None else f"parrot sim speed --long {plan.long}",
    )


def on_cpu(config: SimulationConfig, jobs: Iterable[Job]) -> tuple[Report, float]:
    """Simulate; also gives the seconds of processor time that this took."""
    began_s = time.process_time()
    report = simulate(config, jobs)
    return report, time.process_time() - began_s


def _engine() -> SimulatedConfig:
    preset = PRESETS[PRESET]
    return SimulatedConfig(cost=preset.cost(), num_blocks=preset.kv_tokens() // 16)


def _on_fleet(app: str, num_engines: int, num_calls: int, *, rate: float) -> tuple[Report, float]:
    """`rate` applications come to each engine in a second."""
    per_app = {"mapreduce": 22, "chain": 21, "chat": 1}[app]
    workload = Workload(app=app, count=max(1, num_calls // per_app), rate=num_engines * rate)
    config = SimulationConfig(engines=(_engine(),) * num_engines, round_trip=0.244)
    return on_cpu(config, workload.jobs())


def _long_run(num_calls: int) -> LongRun:
    report, cpu_s = _on_fleet("mapreduce", LONG_ENGINES, num_calls, rate=LONG_RATE)
    return LongRun(
        app="mapreduce",
        num_engines=LONG_ENGINES,
        num_calls=report.num_calls,
        num_errors=report.num_errors,
        cpu_s=cpu_s,
        calls_per_cpu_s=report.num_calls / cpu_s,
        simulated_s=report.ended_at_s,
        rss_bytes=peak_rss_bytes(),
    )


def _busy_rate(app: str) -> float:
    """Applications a second that an engine can about work off."""
    return 1.0 if app == "chat" else 0.25


def _simulated(app: str, num_engines: int, num_calls: int) -> Simulated:
    report, cpu_s = _on_fleet(app, num_engines, num_calls, rate=_busy_rate(app))
    times = report.all_jct_s()
    return Simulated(
        app=app,
        num_engines=num_engines,
        num_calls=report.num_calls,
        cpu_s=cpu_s,
        calls_per_cpu_s=report.num_calls / cpu_s,
        mean_jct_s=sum(times) / len(times),
    )


def _together(app: str, plan: SimSpeedPlan) -> Together:
    num_engines = TOGETHER_ENGINES
    # A first one of each brings in what is loaded once, and all processes are there when the second begin.
    tasks = [
        Task(app, partial(_timed, app, num_engines, num_calls))
        for num_calls in (plan.calls // 10, plan.calls)
        for _ in range(plan.jobs)
    ]
    runs = run_side_by_side(tasks, jobs=plan.jobs)[plan.jobs :]
    real_s = max(run.ended_s for run in runs) - min(run.began_s for run in runs)
    num_calls = sum(run.num_calls for run in runs)
    return Together(
        app=app,
        num_engines=num_engines,
        num_processes=plan.jobs,
        num_calls=num_calls,
        real_s=real_s,
        calls_per_real_s=num_calls / real_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timed:
    """One of several simulations; when it began and ended on the machine's own clock."""

    began_s: float
    ended_s: float
    num_calls: int


def _timed(app: str, num_engines: int, num_calls: int) -> _Timed:
    clock = SystemClock()
    began_s = clock.now_s()
    report, _ = _on_fleet(app, num_engines, num_calls, rate=_busy_rate(app))
    return _Timed(began_s=began_s, ended_s=clock.now_s(), num_calls=report.num_calls)


# ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────────


class _Crowd:
    """Calls that wait, of many sessions, and engines."""

    def __init__(self, *, places: int) -> None:
        """`places` are free on each engine."""
        self.index = PrefixIndex()
        self.calls = {CallId(f"call_{n}"): _ready_call(n) for n in range(ROUND_CALLS)}
        self.queue = FairQueue()
        for number, call_id in enumerate(self.calls):
            self.wait(number, call_id)
        self.roster = Roster(_state(number, places) for number in range(ROUND_ENGINES))

    def wait(self, number: int, call_id: CallId) -> None:
        """A call begins to wait."""
        call = self.calls[call_id]
        self.queue.add(
            WaitingCall(
                call_id=call_id,
                tenant_id=DEFAULT_TENANT,
                session_id=SessionId(f"ses_{number // CALLS_PER_SESSION}"),
                expected=Work(prompt_tokens=call.num_prompt_tokens, output_tokens=call.num_output_tokens),
                rank=(0.0, 0.0),
            )
        )

    def round(self) -> Sequence[CallId]:
        """Plan once; the calls that are placed wait no longer."""
        ready = (self.calls[call_id] for call_id in self.queue.order())
        snapshot = Snapshot(ready=ready, engines=self.roster, index=self.index)
        placed = [each.call_id for each in POLICIES["app-centric"](snapshot).placements]
        for call_id in placed:
            self.queue.admit(call_id)
        return placed


def _ready_call(number: int) -> ReadyCall:
    return ReadyCall(
        call_id=CallId(f"call_{number}"),
        model="m",
        keys=(),
        lengths=(),
        num_prompt_tokens=1000 + number % 7,
        num_output_tokens=50,
    )


def _state(number: int, places: int) -> EngineState:
    return EngineState(
        engine_id=EngineId(f"engine-{number}"),
        model="m",
        max_batch=128,
        num_calls=128 - places,
        num_tokens=128 * 1050,
        num_unfilled_tokens=number,
    )


def _rounds(repeats: int) -> Rounds:
    one_changed: list[float] = []
    crowd = _Crowd(places=0)
    for repeat in range(repeats):
        number = repeat % ROUND_ENGINES
        began_s = time.process_time()
        crowd.roster.put(_state(number, 1), number)
        placed = crowd.round()
        crowd.roster.put(_state(number, 0), number)
        one_changed.append(time.process_time() - began_s)
        assert len(placed) == 1, "one place, one call"
        crowd.queue.finish(placed[0], Work())
        crowd.wait(int(placed[0].removeprefix("call_")), placed[0])
    all_placed: list[float] = []
    for _ in range(repeats):
        crowd = _Crowd(places=128)
        began_s = time.process_time()
        placed = crowd.round()
        all_placed.append(time.process_time() - began_s)
        assert len(placed) == ROUND_CALLS, "there is room for all"
    return Rounds(
        num_engines=ROUND_ENGINES,
        num_waiting=ROUND_CALLS,
        one_changed_s=spread(one_changed),
        all_placed_s=spread(all_placed),
    )


# ── live calls ──────────────────────────────────────────────────────────────────────────────────────────────


async def _live(loop: VirtualLoop, *, num_live: int) -> Live:
    """Chains run to their end, one after the other, while `num_live` calls wait for text of their clients."""
    (engine_id,) = engine_ids(1)
    service = Service(
        config=ServiceConfig(sweep_interval_s=1e5),
        limits=LIMITS,
        store=ForgetfulStore(),
        engines={engine_id: start_simulated(_engine(), engine_id, lambda _: None)},
        clock=VirtualClock(loop),
        fresh=counted_ids(),
    )
    await service.start()
    await service.wait_ready()
    for start in range(0, num_live, 1000):
        await _wait_in_vain(service, min(1000, num_live - start))
    # The first is to bring in what is loaded and learnt once.
    await _run_chains(service, 2)
    began_s = time.process_time()
    num_calls = await _run_chains(service, 10)
    cpu_s = time.process_time() - began_s
    await service.close()
    return Live(num_live=num_live, cpu_s_per_call=cpu_s / num_calls, rss_bytes=peak_rss_bytes())


async def _wait_in_vain(service: Service, num_calls: int) -> None:
    sid = (await service.open_session(DEFAULT_TENANT, SessionCreate())).session_id
    calls = [
        {
            "name": f"wait_{number}",
            "template": "Say more of {{text}}: {{out}}",
            "parameters": {"text": {"variable": f"text_{number % 100}"}, "out": {"output": {}}},
        }
        for number in range(num_calls)
    ]
    await service.submit(DEFAULT_TENANT, sid, SubmitCalls.model_validate({"calls": calls}))


async def _run_chains(service: Service, count: int) -> int:
    num_calls = 0
    for number in range(count):
        chain: Application = chain_summary(stream(number, "live"))
        sid = (await service.open_session(DEFAULT_TENANT, SessionCreate())).session_id
        calls = [call_json(call, {}) for call in chain.calls]
        await service.submit(DEFAULT_TENANT, sid, SubmitCalls.model_validate({"calls": calls}))
        await service.get_variable(DEFAULT_TENANT, sid, chain.finals()[0], wait_s=1e6)
        await service.delete_session(DEFAULT_TENANT, sid)
        await asyncio.sleep(0)
        num_calls += len(calls)
    return num_calls
