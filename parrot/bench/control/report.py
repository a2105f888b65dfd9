"""What `parrot bench control` found: the keys of its JSON (docs/reference/bench-control.md)."""

from dataclasses import dataclass

from parrot.bench.origin import Commit, Machine
from parrot.bench.spread import Spread

SCHEMA = "parrot.bench.control/1"
"""Changes when a key changes its meaning or goes; new keys may come without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Of many measurements."""

    p50: float
    p90: float
    p99: float
    max: float
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Calls through HTTP, each submitted, run and waited for."""

    batch_calls: int
    """Calls of one submission."""
    num_connections: int
    num_calls: int
    """In all repeats together."""
    calls_per_s: Spread
    service_cpu_s_per_call: float | None
    """Processor time of the service's process alone; engine and client have processes of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Calls that each wait for the one before, with an engine that takes no time."""

    length: int
    added_s: Quantiles
    """From one call's end to the next one's end."""
    round_trip_s: Quantiles
    """The same chain as a client that gets each value and submits the next call: what is saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeSession:
    """One session with many calls."""

    num_calls: int
    submitted_s: float
    """Until the last submission was acknowledged."""
    done_s: float
    """Until the last value was there."""
    calls_per_s: float
    graph_s: float
    """`GET /graph` of all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Cost of calls while so many others are alive."""

    num_live_calls: int
    """Calls that wait for an input, in open sessions."""
    calls_per_s: Spread
    s_per_call: float
    """Of the median."""
    against_first: float
    """The cost over that at the smallest number."""
    service_cpu_s_per_call: float | None
    rss_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Resident memory of the service's process."""

    idle_bytes: int
    per_waiting_call_bytes: float
    """Of calls that wait, without what the service has idle."""
    num_waiting_calls: int
    per_done_call_bytes: float
    """Of calls that have ended, in sessions that are open."""
    num_done_calls: int
    after_delete_bytes: int
    """When all sessions had been deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlReport:
    """All that was measured."""

    schema: str
    started_at: str
    duration_s: float
    machine: Machine
    load_average: float
    versions: dict[str, str]
    source: Commit | None
    settings: dict[str, object]
    batches: Throughput | None
    single: Throughput | None
    chain: Chain | None
    session: LargeSession | None
    growth: tuple[Growth, ...]
    memory: Memory | None
    command: str
