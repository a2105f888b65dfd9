"""What repeated measurements of one thing gave."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Minimum, median and maximum of repeats."""

    min: float
    median: float
    max: float
    num_repeats: int


def spread(values: Iterable[float]) -> Spread:
    """The spread of at least one value."""
    ordered = sorted(values)
    return Spread(min=ordered[0], median=median(ordered), max=ordered[-1], num_repeats=len(ordered))
