"""A side of the comparison: a way to run applications on some server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from parrot.bench.apps.applications import Application, Run
from parrot.bench.apps.records import CallTimes, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run of an application gave."""

    jct_s: float
    num_requests: int
    usage: Usage
    calls: Sequence[CallTimes]


class Side(Protocol):
    """Runs applications."""

    name: str

    async def run(self, application: Application, run: Run, *, rtt_s: float) -> Outcome:
        """One run from the program's start to its last result, with that round trip to the server."""
        ...
