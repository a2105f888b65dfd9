"""Runs the applications on all sides in turn, and sums up."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from parrot.bench.apps.applications import APPLICATIONS, Application, Run, Size
from parrot.bench.apps.gauges import Counters, Gauges, watched
from parrot.bench.apps.records import CallTimes, Ratio, RunRecord, SideSummary, WorkSummary
from parrot.bench.apps.side import Outcome, Side
from parrot.bench.apps.texts import Material
from parrot.bench.spread import Spread, spread
from parrot.ports.clock import Clock

WARM_UP = Size(scale=0.05)
"""Small, and of the same kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One side and the server it runs on."""

    side: Side
    gauges: Gauges
    server: str
    """Sides with the same one share its cache, and so never get the same texts."""


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
            run = self._run("mapreduce", f"{self._plan.seed}/warm up/{contender.side.name}", WARM_UP)
            await contender.side.run(APPLICATIONS["mapreduce"], run, rtt_s=0.0)

    async def records_of(self, tell: Callable[[str], None]) -> AsyncIterator[RunRecord]:
        """Every run, as it ends. The sides take turns, and another begins in each round."""
        for rtt_s in self._plan.rtts_s:
            for work in self._plan.works:
                for run in range(self._plan.runs):
                    turn = run % len(self._contenders)
                    for contender in (*self._contenders[turn:], *self._contenders[:turn]):
                        tell(f"{work}, run {run + 1} of {self._plan.runs}: {contender.side.name}")
                        record = await self._record(contender, APPLICATIONS[work], run, rtt_s)
                        self.records.append(record)
                        yield record

    def summaries(self) -> list[WorkSummary]:
        """All runs so far, summed up by workload and round trip."""
        names = [contender.side.name for contender in self._contenders]
        keys = dict.fromkeys((record.work, record.rtt_s) for record in self.records)
        return [summarise(work, rtt_s, names, self.records) for work, rtt_s in keys]

    async def _record(
        self, contender: Contender, application: Application, number: int, rtt_s: float
    ) -> RunRecord:
        seed = self._seed(contender, application.name, number, rtt_s)
        run = self._run(application.name, seed, Size(scale=self._plan.scale))
        before = await contender.gauges.read()
        async with watched(contender.gauges, self._clock) as watch:
            outcome = await contender.side.run(application, run, rtt_s=rtt_s)
        after = await contender.gauges.read()
        return record_of(
            outcome,
            work=application.name,
            side=contender.side.name,
            run=number,
            rtt_s=rtt_s,
            seed=seed,
            counted=difference(before, after),
            peak_kv_tokens=watch.peak_kv_tokens,
        )

    def _seed(self, contender: Contender, work: str, number: int, rtt_s: float) -> str:
        """The same for all sides that have a server of their own."""
        same = [other for other in self._contenders if other.server == contender.server]
        return f"{self._plan.seed}/{work}/{rtt_s:g}/{number}/{same.index(contender)}"

    def _run(self, work: str, seed: str, size: Size) -> Run:
        kind = APPLICATIONS[work].material
        return Run(texts=self._material.texts(seed, kind=kind), material=self._material, size=size)


def difference(before: Counters, after: Counters) -> Counters:
    """What was counted between two readings; None where one of them does not tell."""

    def since(first: int | None, last: int | None) -> int | None:
        return None if first is None or last is None else last - first

    return Counters(
        prompt_tokens=since(before.prompt_tokens, after.prompt_tokens),
        cached_tokens=since(before.cached_tokens, after.cached_tokens),
        prefilled_tokens=since(before.prefilled_tokens, after.prefilled_tokens),
    )


def record_of(
    outcome: Outcome,
    *,
    work: str,
    side: str,
    run: int,
    rtt_s: float,
    seed: str,
    counted: Counters,
    peak_kv_tokens: int | None,
) -> RunRecord:
    """A run as it is written down. Cached tokens are the answers' own counts, else the server's."""
    usage = outcome.usage
    cached = usage.cached_tokens if usage.cached_tokens is not None else counted.cached_tokens
    prefilled = counted.prefilled_tokens
    if prefilled is None and cached is not None:
        prefilled = usage.prompt_tokens - cached
    return RunRecord(
        work=work,
        side=side,
        run=run,
        rtt_s=rtt_s,
        seed=seed,
        jct_s=outcome.jct_s,
        num_calls=usage.num_calls,
        num_requests=outcome.num_requests,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=cached,
        prefilled_tokens=prefilled,
        hit_rate=None if cached is None or not usage.prompt_tokens else cached / usage.prompt_tokens,
        output_tokens=usage.output_tokens,
        output_tokens_per_s=usage.output_tokens / outcome.jct_s,
        ttft_s=maybe_spread(
            [one.first_token_s - one.ready_s for one in outcome.calls if one.first_token_s is not None]
        ),
        tpot_s=maybe_spread(
            [
                (one.done_s - one.first_token_s) / (one.output_tokens - 1)
                for one in outcome.calls
                if one.first_token_s is not None and one.output_tokens > 1
            ]
        ),
        normalised_latency_s=maybe_spread([_normalised(one) for one in outcome.calls if one.output_tokens]),
        peak_kv_tokens=peak_kv_tokens,
    )


def summarise(work: str, rtt_s: float, sides: Sequence[str], records: Sequence[RunRecord]) -> WorkSummary:
    """One workload at one round trip; the first side is compared with each other."""
    by_side = {
        side: [one for one in records if (one.work, one.rtt_s, one.side) == (work, rtt_s, side)]
        for side in sides
    }
    ours = {one.run: one.jct_s for one in by_side[sides[0]]}
    ratios = []
    for side in sides[1:]:
        speedups = [one.jct_s / ours[one.run] for one in by_side[side] if one.run in ours]
        if speedups:
            theirs = spread(one.jct_s for one in by_side[side])
            ratios.append(
                Ratio(
                    side=side,
                    speedup=spread(speedups),
                    of_medians=theirs.median / spread(ours.values()).median,
                )
            )
    found = [_summary(side, runs) for side, runs in by_side.items() if runs]
    return WorkSummary(work=work, rtt_s=rtt_s, sides=found, ratios=ratios)


def _summary(side: str, runs: Sequence[RunRecord]) -> SideSummary:
    return SideSummary(
        side=side,
        jct_s=spread(one.jct_s for one in runs),
        output_tokens_per_s=spread(one.output_tokens_per_s for one in runs),
        hit_rate=maybe_spread([one.hit_rate for one in runs if one.hit_rate is not None]),
        prefilled_tokens=maybe_spread(
            [one.prefilled_tokens for one in runs if one.prefilled_tokens is not None]
        ),
        ttft_s=maybe_spread([one.ttft_s.median for one in runs if one.ttft_s]),
        tpot_s=maybe_spread([one.tpot_s.median for one in runs if one.tpot_s]),
        normalised_latency_s=maybe_spread(
            [one.normalised_latency_s.median for one in runs if one.normalised_latency_s]
        ),
        goodput=maybe_spread([one.goodput for one in runs if one.goodput is not None]),
        peak_kv_tokens=max(
            (one.peak_kv_tokens for one in runs if one.peak_kv_tokens is not None), default=None
        ),
    )


def maybe_spread(values: Sequence[float]) -> Spread | None:
    """The spread of values, if there are any."""
    return spread(values) if values else None


def _normalised(call: CallTimes) -> float:
    return (call.done_s - call.ready_s) / call.output_tokens
