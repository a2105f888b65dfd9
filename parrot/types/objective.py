"""What a user waits for: given at `get` or for a session, or deduced from the graph (paper, section 5.2)."""

from typing import Literal

from msgspec import Struct

Objective = Literal["latency", "throughput"]
"""`latency`: someone waits for this value. `throughput`: only the whole work's completion matters."""

OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput")


class CallObjective(Struct, frozen=True, kw_only=True):
    """The objective that a call runs under, and why."""

    objective: Objective
    task_group: str | None = None
    """Calls with the same group are wanted together; their joint completion matters."""
    deadline_at_s: float | None = None
    """Service clock, seconds; after it the call's outputs fail with `deadline`."""
    stage: int = 0
    """Calls on the longest path that leads to it."""
    why: str = "default"
    """One phrase for `explain`."""

    @property
    def batched_for(self) -> Objective:
        """How an engine should batch it: a task group wants to be through together, so its calls are batched
        for throughput even on a latency path; a call that is waited for alone is batched for latency.
        """
        return "throughput" if self.task_group is not None else self.objective
