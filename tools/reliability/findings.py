"""What a scenario of the campaign found, as values that are written to a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Zero:
    """Something that must not happen, how often it did, and of how many chances."""

    what: str
    count: int
    of: int

    @property
    def bound(self) -> float:
        """With no case among `of`, the rate is below this with 95 % confidence (the rule of three)."""
        return 3 / self.of if self.of else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What must have happened so that a scenario has shown anything."""

    what: str
    count: int
    at_least: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One scenario's outcome."""

    scenario: str
    promise: str
    """Of the page: P1 to P16."""
    faults: Mapping[str, int]
    """What was done to the service, and how often."""
    zeros: tuple[Zero, ...] = ()
    floors: tuple[Floor, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    """Measured values, the unit in the name."""
    problems: tuple[str, ...] = ()
    """What went wrong, in words."""
    skipped: str = ""
    """Why it could not be tried on this machine."""

    @property
    def kept(self) -> bool:
        """Whether the promise was kept, and enough happened to say so."""
        return (
            not self.problems
            and all(zero.count == 0 for zero in self.zeros)
            and all(floor.count >= floor.at_least for floor in self.floors)
        )

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON, each zero with its bound."""
        found = asdict(self)
        found["zeros"] = [{**asdict(zero), "bound_95": round(zero.bound, 6)} for zero in self.zeros]
        found["kept"] = self.kept
        return found
