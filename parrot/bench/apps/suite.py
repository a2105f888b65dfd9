"""Runs the applications on all sides in turn."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random

from parrot.bench.apps.applications import APPLICATIONS, Run, Size
from parrot.bench.apps.gauges import Gauges, watched
from parrot.bench.apps.records import RunRecord, WorkSummary
from parrot.bench.apps.serving import SERVING, Load, ServingWork, goodput, serve, together
from parrot.bench.apps.side import Side
from parrot.bench.apps.summing import difference, record_of, stream_records, summarise
from parrot.bench.apps.texts import Material
from parrot.bench.processes import ServerProcess
from parrot.bench.spread import spread
from parrot.ports.clock import Clock

WARM_UP = Size(scale=0.05)
"""Small, and of the same kind."""

SETTLE_S = 1.0
"""Each server has so long for itself after a run, while the others are still held: what it does once it is
idle is not done in another's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One side and the server it runs on."""

    side: Side
    gauges: Gauges
    server: str
    """Sides with the same one share its cache, and so never get the same texts."""
    process: ServerProcess | None = None
    """Held while it is another's turn: some servers' threads go on turning after their work. Parrot's is not:
    its processes listen for each other's heartbeats, and take no time when they have settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppsPlan:
    """What is run."""

    works: tuple[str, ...] = tuple(APPLICATIONS)
    """In this order."""
    rtts_s: tuple[float, ...] = (0.0,)
    """Round trips between client and server, added to each of the client's requests."""
    runs: int = 3
    """Of each workload on each side, at each round trip."""
    seed: int = 0
    """Seeds all texts."""
    scale: float = 1.0
    """Multiplies the lengths of texts and answers."""
    rates: tuple[float, ...] = (1.0,)
    """Requests a second; of serving workloads."""
    duration_s: float = 20.0
    """Requests come for so long; of serving workloads."""
    bound_s: float = 0.1
    """A request that took longer for each output token does not count as goodput."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One workload as it is run on all sides."""

    work: str
    rtt_s: float
    rate: float | None = None


class AppsSuite:
    """Runs a plan; the first contender is Parrot's side."""

    def __init__(
        self, contenders: Sequence[Contender], plan: AppsPlan, material: Material, *, clock: Clock
    ) -> None:
        self._contenders = contenders
        self._plan = plan
        self._material = material
        self._clock = clock
        self.records: list[RunRecord] = []

    async def warm_up(self) -> None:
        """A small application on each side, which is not counted."""
        for contender in self._contenders:
            run = self._run("articles", f"{self._plan.seed}/warm up/{contender.side.name}", WARM_UP)
            await contender.side.run(APPLICATIONS["mapreduce"], run, rtt_s=0.0)

    async def records_of(self, tell: Callable[[str], None]) -> AsyncIterator[RunRecord]:
        """Every run, as it ends. The sides take turns, and another begins in each round."""
        for case in self._cases():
            for number in range(self._plan.runs):
                turn = number % len(self._contenders)
                for contender in (*self._contenders[turn:], *self._contenders[:turn]):
                    tell(f"{case.work}, run {number + 1} of {self._plan.runs}: {contender.side.name}")
                    with self._alone(contender):
                        record = await self._record(contender, case, number)
                        await self._clock.sleep(SETTLE_S)
                    self.records.append(record)
                    yield record

    @contextmanager
    def _alone(self, contender: Contender) -> Iterator[None]:
        others = [one.process for one in self._contenders if one is not contender and one.process is not None]
        for process in others:
            process.hold()
        try:
            yield
        finally:
            for process in others:
                process.go_on()

    def summaries(self) -> list[WorkSummary]:
        """All runs so far, summed up by workload, round trip and rate."""
        names = [contender.side.name for contender in self._contenders]
        keys = dict.fromkeys((record.work, record.rtt_s, record.rate) for record in self.records)
        return [
            summarise([one for one in self.records if (one.work, one.rtt_s, one.rate) == key], names)
            for key in keys
        ]

    def _cases(self) -> list[_Case]:
        cases = []
        for rtt_s in self._plan.rtts_s:
            for work in self._plan.works:
                rates = self._plan.rates if work in SERVING else (None,)
                cases += [_Case(work=work, rtt_s=rtt_s, rate=rate) for rate in rates]
        return cases

    async def _record(self, contender: Contender, case: _Case, number: int) -> RunRecord:
        seed = self._seed(contender, case, number)
        before = await contender.gauges.read()
        async with watched(contender.gauges, self._clock) as watch:
            record = await self._measured(contender.side, case, number, seed)
        counted = difference(before, await contender.gauges.read())
        cached = record.cached_tokens if record.cached_tokens is not None else counted.cached_tokens
        prefilled = counted.prefilled_tokens
        if prefilled is None and cached is not None:
            prefilled = record.prompt_tokens - cached
        return replace(
            record,
            cached_tokens=cached,
            prefilled_tokens=prefilled,
            hit_rate=None if cached is None or not record.prompt_tokens else cached / record.prompt_tokens,
            peak_kv_tokens=watch.peak_kv_tokens,
        )

    async def _measured(self, side: Side, case: _Case, number: int, seed: str) -> RunRecord:
        """One run, as its client sees it."""
        size = Size(scale=self._plan.scale)
        if case.work in SERVING:
            return await self._served(side, SERVING[case.work], case, number, seed)
        application = APPLICATIONS[case.work]
        run = self._run(application.material, seed, size)
        outcome = await side.run(application, run, rtt_s=case.rtt_s)
        return record_of(outcome, work=case.work, side=side.name, run=number, rtt_s=case.rtt_s, seed=seed)

    async def _served(self, side: Side, work: ServingWork, case: _Case, number: int, seed: str) -> RunRecord:
        assert case.rate is not None
        run = self._run("articles", seed, Size(scale=self._plan.scale))
        load = Load(rate=case.rate, duration_s=self._plan.duration_s)
        # The same arrivals on all sides.
        chance = Random(f"{self._plan.seed}/{case.work}/{case.rate:g}/{number}")  # noqa: S311 - no secret
        arrivals = work.arrivals(run, load, chance)
        served, duration_s = await serve(side, arrivals, rtt_s=case.rtt_s, clock=self._clock)
        record = record_of(
            together(served, duration_s),
            work=work.name,
            side=side.name,
            run=number,
            rtt_s=case.rtt_s,
            seed=seed,
        )
        users = [one for one in served if one.stream == work.users]
        foreground = [one.outcome.jct_s for one in served if one.stream == work.foreground]
        return replace(
            record,
            jct_s=spread(foreground or [duration_s]).median,
            goodput=goodput(users, duration_s, bound_s=self._plan.bound_s),
            rate=case.rate,
            streams=stream_records(served),
        )

    def _seed(self, contender: Contender, case: _Case, number: int) -> str:
        """The same for all sides that have a server of their own."""
        same = [other for other in self._contenders if other.server == contender.server]
        place = "" if case.rate is None else f"/{case.rate:g}"
        return f"{self._plan.seed}/{case.work}/{case.rtt_s:g}{place}/{number}/{same.index(contender)}"

    def _run(self, kind: str, seed: str, size: Size) -> Run:
        return Run(texts=self._material.texts(seed, kind=kind), material=self._material, size=size)
