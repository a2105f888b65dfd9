"""What a run of an application gave: the keys of the JSON (docs/reference/bench-apps.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from parrot.bench.spread import Spread

SCHEMA = "parrot.bench.apps/1"
"""Changes when a key changes its meaning or goes; new keys may come without."""

SideKind = Literal["parrot", "openai"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTimes:
    """One call: when its inputs were there (or its request was sent), its first token, its end; seconds."""

    ready_s: float
    first_token_s: float | None
    """None where nobody saw it: the client did not stream."""
    done_s: float
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a run."""

    num_calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    """Of these, taken from KV that was there; None where the server does not tell."""
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRecord:
    """One stream of a serving workload in one run."""

    stream: str
    num_arrivals: int
    jct_s: Spread
    """From an arrival to its last result."""
    ttft_s: Spread | None
    """Of its calls; so are the next two."""
    tpot_s: Spread | None
    normalised_latency_s: Spread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run of one workload on one side."""

    work: str
    side: str
    run: int
    rtt_s: float
    seed: str
    jct_s: float
    """Job completion time: from the program's start to its last result. Of a serving workload, the median
    over the programs in the foreground."""
    num_calls: int
    num_requests: int
    """HTTP requests of the client."""
    prompt_tokens: int
    cached_tokens: int | None
    prefilled_tokens: int | None
    hit_rate: float | None
    output_tokens: int
    output_tokens_per_s: float
    ttft_s: Spread | None
    """Time to first token of the calls, from when their inputs were there."""
    tpot_s: Spread | None
    """Time per output token after the first."""
    normalised_latency_s: Spread | None
    """Time of a call over its output tokens."""
    peak_kv_tokens: int | None
    """The most tokens of KV in use, as sampled."""
    goodput: float | None = None
    """Requests in a second that met both bounds; of serving workloads."""
    rate: float | None = None
    """Requests a second that came; of serving workloads."""
    streams: tuple[StreamRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SideSummary:
    """One side over all runs of one workload at one round trip."""

    side: str
    jct_s: Spread
    output_tokens_per_s: Spread
    hit_rate: Spread | None
    prefilled_tokens: Spread | None
    ttft_s: Spread | None
    """Of the runs' medians; so are the next two."""
    tpot_s: Spread | None
    normalised_latency_s: Spread | None
    goodput: Spread | None
    peak_kv_tokens: int | None
    """The highest of all runs."""
    streams: tuple["StreamSummary", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """One stream over all runs: spreads of the runs' medians."""

    stream: str
    jct_s: Spread
    ttft_s: Spread | None
    tpot_s: Spread | None
    normalised_latency_s: Spread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSummary:
    """All sides on one workload at one round trip, and how many times faster Parrot is."""

    work: str
    rtt_s: float
    rate: float | None
    sides: Sequence[SideSummary]
    ratios: "Sequence[Ratio]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A base line's job completion time over Parrot's: above 1, Parrot is faster."""

    side: str
    speedup: Spread
    """Run against run, with the same texts."""
    of_medians: float
