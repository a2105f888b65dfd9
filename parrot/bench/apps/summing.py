"""From what runs gave to records, and from records to summaries."""

from collections.abc import Iterable, Sequence

from parrot.bench.apps.gauges import Counters
from parrot.bench.apps.records import (
    CallTimes,
    Ratio,
    RunRecord,
    SideSummary,
    StreamRecord,
    StreamSummary,
    WorkSummary,
)
from parrot.bench.apps.serving import Served
from parrot.bench.apps.side import Outcome
from parrot.bench.spread import Spread, spread


def difference(before: Counters, after: Counters) -> Counters:
    """What was counted between two readings; None where one of them does not tell."""

    def since(first: int | None, last: int | None) -> int | None:
        return None if first is None or last is None else last - first

    return Counters(
        cached_tokens=since(before.cached_tokens, after.cached_tokens),
        prefilled_tokens=since(before.prefilled_tokens, after.prefilled_tokens),
    )


def record_of(outcome: Outcome, *, work: str, side: str, run: int, rtt_s: float, seed: str) -> RunRecord:
    """A run as its client saw it. What the server counted is added by the caller."""
    usage = outcome.usage
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
        cached_tokens=usage.cached_tokens,
        prefilled_tokens=None,
        hit_rate=None,
        output_tokens=usage.output_tokens,
        output_tokens_per_s=usage.output_tokens / outcome.jct_s,
        ttft_s=ttft(outcome.calls),
        tpot_s=tpot(outcome.calls),
        normalised_latency_s=normalised_latency(outcome.calls),
        peak_kv_tokens=None,
    )


def stream_records(served: Sequence[Served]) -> tuple[StreamRecord, ...]:
    """Each stream of a serving workload."""
    found = []
    for name in dict.fromkeys(one.stream for one in served):
        outcomes = [one.outcome for one in served if one.stream == name]
        calls = [call for outcome in outcomes for call in outcome.calls]
        found.append(
            StreamRecord(
                stream=name,
                num_arrivals=len(outcomes),
                jct_s=spread(outcome.jct_s for outcome in outcomes),
                ttft_s=ttft(calls),
                tpot_s=tpot(calls),
                normalised_latency_s=normalised_latency(calls),
            )
        )
    return tuple(found)


def summarise(records: Sequence[RunRecord], sides: Sequence[str]) -> WorkSummary:
    """All runs of one workload at one round trip and rate; the first side is compared with each other."""
    by_side = {side: [one for one in records if one.side == side] for side in sides}
    ours = {one.run: one.jct_s for one in by_side[sides[0]]}
    ratios = []
    for side in sides[1:]:
        speedups = [one.jct_s / ours[one.run] for one in by_side[side] if one.run in ours]
        if speedups:
            theirs = spread(one.jct_s for one in by_side[side])
            of_medians = theirs.median / spread(ours.values()).median
            ratios.append(Ratio(side=side, speedup=spread(speedups), of_medians=of_medians))
    return WorkSummary(
        work=records[0].work,
        rtt_s=records[0].rtt_s,
        rate=records[0].rate,
        sides=tuple(_side(side, runs) for side, runs in by_side.items() if runs),
        ratios=tuple(ratios),
    )


def ttft(calls: Sequence[CallTimes]) -> Spread | None:
    """Time to first token."""
    return maybe_spread(one.first_token_s - one.ready_s for one in calls if one.first_token_s is not None)


def tpot(calls: Sequence[CallTimes]) -> Spread | None:
    """Time per output token after the first."""
    return maybe_spread(
        (one.done_s - one.first_token_s) / (one.output_tokens - 1)
        for one in calls
        if one.first_token_s is not None and one.output_tokens > 1
    )


def normalised_latency(calls: Sequence[CallTimes]) -> Spread | None:
    """Time of a call over its output tokens."""
    return maybe_spread((one.done_s - one.ready_s) / one.output_tokens for one in calls if one.output_tokens)


def maybe_spread(values: Iterable[float | None]) -> Spread | None:
    """The spread of those values that are there, if any are."""
    present = [value for value in values if value is not None]
    return spread(present) if present else None


def _median(found: Spread | None) -> float | None:
    return None if found is None else found.median


def _side(side: str, runs: Sequence[RunRecord]) -> SideSummary:
    return SideSummary(
        side=side,
        jct_s=spread(one.jct_s for one in runs),
        output_tokens_per_s=spread(one.output_tokens_per_s for one in runs),
        hit_rate=maybe_spread(one.hit_rate for one in runs),
        prefilled_tokens=maybe_spread(one.prefilled_tokens for one in runs),
        ttft_s=maybe_spread(_median(one.ttft_s) for one in runs),
        tpot_s=maybe_spread(_median(one.tpot_s) for one in runs),
        normalised_latency_s=maybe_spread(_median(one.normalised_latency_s) for one in runs),
        goodput=maybe_spread(one.goodput for one in runs),
        peak_kv_tokens=max(
            (one.peak_kv_tokens for one in runs if one.peak_kv_tokens is not None), default=None
        ),
        streams=_streams(runs),
    )


def _streams(runs: Sequence[RunRecord]) -> tuple[StreamSummary, ...]:
    found = []
    for name in dict.fromkeys(one.stream for run in runs for one in run.streams):
        streams = [one for run in runs for one in run.streams if one.stream == name]
        found.append(
            StreamSummary(
                stream=name,
                jct_s=spread(one.jct_s.median for one in streams),
                ttft_s=maybe_spread(_median(one.ttft_s) for one in streams),
                tpot_s=maybe_spread(_median(one.tpot_s) for one in streams),
                normalised_latency_s=maybe_spread(_median(one.normalised_latency_s) for one in streams),
            )
        )
    return tuple(found)
