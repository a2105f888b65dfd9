"""What the project wants to reach, and whether a measurement does."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["reached", "missed", "goal reached"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound, and what would be better still."""

    bound: float
    is_least: bool = True
    """At least the bound; otherwise at most."""
    goal: float | None = None

    def verdict(self, value: float) -> Verdict:
        """Whether a value keeps it."""
        if self.goal is not None and self._holds(value, self.goal):
            return "goal reached"
        return "reached" if self._holds(value, self.bound) else "missed"

    def text(self, number: str = "{:,.6g}") -> str:
        """The bound for people."""
        sign = "≥" if self.is_least else "≤"
        goal = "" if self.goal is None else f" (goal {number.format(self.goal)})"
        return f"{sign} {number.format(self.bound)}{goal}"

    def _holds(self, value: float, bound: float) -> bool:
        return value >= bound if self.is_least else value <= bound


SPEEDUPS = {
    "chain": (Target(bound=1.4, goal=2.0), Target(bound=1.6, goal=2.0)),
    "mapreduce": (Target(bound=1.2, goal=1.5), Target(bound=1.25, goal=1.5)),
    "gpts": (Target(bound=1.5, goal=2.0), Target(bound=1.5, goal=2.0)),
    "shared": (Target(bound=2.0, goal=2.5), Target(bound=2.0, goal=2.5)),
    "agents": (Target(bound=1.5, goal=2.0), Target(bound=1.7, goal=2.0)),
    "copilot": (Target(bound=2.5, goal=3.5), Target(bound=2.5, goal=3.5)),
}
"""Job completion time of vLLM on the CPU over Parrot's: without a round trip, and with one of 250 ms."""

OVER_LLAMACPP = {"chain": Target(bound=1.5)} | dict.fromkeys(
    ("mapreduce", "gpts", "shared", "agents", "copilot"), Target(bound=4.0)
)
"""The same over llama.cpp's server, without a round trip."""

PREFILL = Target(bound=1400)
"""Tokens a second, of prompts of 512 tokens or more."""
DECODE_ALONE = Target(bound=55, goal=70)
"""Tokens a second of one request."""
DECODE_SHARED = {800: Target(bound=650), 4000: Target(bound=350)}
"""Tokens a second of 32 requests, by the length of the prefix that they share."""
SHARED_OVER_EACH = Target(bound=4)
"""At 32 requests and 4,000 tokens: shared attention over ordinary attention per request."""
OUTSIDE = {1: Target(bound=0.15, is_least=False), 32: Target(bound=0.10, is_least=False)}
"""Part of a decode step that is neither matrix products nor attention, by batch."""

CALLS_PER_S = Target(bound=2000)
ADDED_P50_S = Target(bound=0.0015, is_least=False)
ADDED_P99_S = Target(bound=0.010, is_least=False)
SESSION_CALLS = Target(bound=10_000)
GROWTH = Target(bound=1.2, is_least=False)
"""Cost of a call beside the most live calls over that beside the fewest."""

ROUND_OF_ONE_S = Target(bound=0.001, is_least=False)
ROUND_OF_ALL_S = Target(bound=0.050, is_least=False)
SIMULATED_CALLS_PER_S = Target(bound=5_000, goal=20_000)
LIVE_GROWTH = Target(bound=1.2, is_least=False)
"""Cost of a call beside the most live calls over that beside the fewest, without HTTP."""
