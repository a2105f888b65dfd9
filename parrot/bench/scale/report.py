"""What `parrot bench scale` found. Field names are the keys of its JSON (docs/reference/bench-scale.md)."""

from dataclasses import dataclass

from parrot.bench.control.report import Quantiles
from parrot.bench.origin import Commit, Machine

SCHEMA = "parrot.bench.scale/1"
"""Changes when a key changes its meaning or goes; new keys may come without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One kind of application in one round."""

    name: str
    round: int
    num_sessions: int
    num_calls: int
    """That were submitted."""
    num_lost: int
    """Calls that did not end with a value."""
    duration_s: float
    calls_per_s: float
    result_s: Quantiles
    """From a result's submission to its value: the book's summary, a chat's turn, a team's last files."""
    first_text_s: Quantiles | None
    """Of a chat's turn."""
    answer_s: Quantiles
    """Of `GET /healthz` from another process meanwhile: how long the service's loop is held up."""
    rss_bytes: int | None
    """Of the service, when the part's sessions had been deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleReport:
    """All that was measured."""

    schema: str
    started_at: str
    duration_s: float
    machine: Machine
    load_average: float
    versions: dict[str, str]
    source: Commit | None
    settings: dict[str, object]
    idle_rss_bytes: int | None
    parts: tuple[Part, ...]
    num_lost: int
    """Of all parts."""
    rss_growth: float | None
    """The service's memory after the last round over that after the first: 1 when nothing piles up."""
    owned_blocks: int
    """KV blocks that engines still hold for contexts in use at the end: 0 when all were given back."""
    command: str
