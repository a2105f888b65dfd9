"""What `parrot bench migration` found. Field names are the keys of its JSON
(docs/reference/bench-migration.md).
"""

from dataclasses import dataclass

from parrot.bench.origin import Commit, Machine
from parrot.bench.spread import Spread

SCHEMA = "parrot.bench.migration/1"
"""Changes when a key changes its meaning or goes; new keys may come without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRun:
    """One run of one version."""

    version: str
    rtt_s: float
    run: int
    seconds: float
    """From the program's start to its result, by its own clock."""
    num_requests: int
    num_round_trips: int
    """Of these, the most that waited for one another."""
    prefilled_tokens: int
    """By all engines, for prompts."""
    decoded_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSummary:
    """One version over its runs at one round trip."""

    version: str
    title: str
    rtt_s: float
    seconds: Spread
    num_requests: Spread
    num_round_trips: Spread
    prefilled_tokens: Spread
    decoded_tokens: Spread
    gain: float
    """The first version's median of seconds over this one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A version that was not run."""

    version: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationReport:
    """All that was measured."""

    schema: str
    started_at: str
    duration_s: float
    machine: Machine
    load_average: float
    versions: dict[str, str]
    source: Commit | None
    settings: dict[str, object]
    service: str
    """The engine, as the service tells it."""
    num_calls: int
    """Of one run of the application."""
    runs: tuple[VersionRun, ...]
    summaries: tuple[VersionSummary, ...]
    skipped: tuple[Skipped, ...]
    interrupted: bool
    """It was stopped before its plan was through."""
    command: str
