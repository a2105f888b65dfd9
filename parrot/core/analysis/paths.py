"""Critical paths and slack: what must still run after a call, and how long the call can wait.

The critical path of a call is the longest chain of work from it, itself included, to a result that needs it
(Kelley and Walker 1959); its slack is what a deadline leaves when the path begins now. Which of two chains is
longer is decided at one pace, given once; how many seconds a path takes is said at any.
"""

from collections.abc import Callable
from dataclasses import dataclass

from parrot.core.estimates import Pace, Work
from parrot.core.graph import ApplicationGraph, Call
from parrot.types.ids import CallId, VariableId

PathAsk = tuple[float, int, int]
"""Minus the seconds, the prompt tokens and the output tokens of a path: the least is the longest."""
DueAsk = tuple[float, float, int, int]
"""By when the asking call has to begin at the latest; the deadline, and the path that leads there."""


class LongestPath:
    """The rule of critical paths; the fact of a call is the work on the path that begins with it."""

    def __init__(self, work: Callable[[CallId], Work], pace: Pace) -> None:
        self._work = work
        self._pace = pace

    def judge(self, call: Call, strictest: PathAsk | None) -> Work:
        """The call's own work, and the longest path behind it."""
        own = self._work(call.call_id)
        if strictest is None:
            return own
        return own + Work(prompt_tokens=-strictest[1], output_tokens=-strictest[2])

    def ask(self, call: Call, fact: Work, producer: Call, num_beside: int) -> PathAsk:
        """The path, as it is compared."""
        del call, producer, num_beside
        return -self._pace.seconds(fact), -fact.prompt_tokens, -fact.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """The deadline that leaves a call least time, and the work on the path to what is due then."""

    deadline_at_s: float
    """Seconds of the clock in which deadlines are given."""
    work: Work
    """The call itself included."""

    def slack_s(self, now_s: float, pace: Pace) -> float:
        """Seconds the call can wait; below 0 the deadline cannot be kept at this pace."""
        return self.deadline_at_s - now_s - pace.seconds(self.work)


class NearestDeadline:
    """The rule of deadlines. The session's applies to every call; readers may set others for variables."""

    def __init__(
        self,
        graph: ApplicationGraph,
        work: Callable[[CallId], Work],
        pace: Pace,
        session_deadline_at_s: float | None,
    ) -> None:
        self._graph = graph
        self._work = work
        self._pace = pace
        self._session = [] if session_deadline_at_s is None else [session_deadline_at_s]
        self.stated: dict[VariableId, float] = {}

    @property
    def any(self) -> bool:
        """Whether there is a deadline at all."""
        return bool(self._session or self.stated)

    def judge(self, call: Call, strictest: DueAsk | None) -> Due | None:
        """The deadline that matters for a call."""
        variables = self._graph.variables
        own = [
            self.stated[variable_id]
            for variable_id in call.outputs.values()
            if variable_id in self.stated and variables[variable_id].state == "pending"
        ]
        asks: list[DueAsk] = [(deadline, deadline, 0, 0) for deadline in (*own, *self._session)]
        if strictest is not None:
            asks.append(strictest)
        if not asks:
            return None
        _, deadline_at_s, prompt_tokens, output_tokens = min(asks)
        behind = Work(prompt_tokens=prompt_tokens, output_tokens=output_tokens)
        return Due(deadline_at_s=deadline_at_s, work=behind + self._work(call.call_id))

    def ask(self, call: Call, fact: Due | None, producer: Call, num_beside: int) -> DueAsk | None:
        """The path to the deadline, as it is compared."""
        del call, producer, num_beside
        if fact is None:
            return None
        work = fact.work
        start_by_s = fact.deadline_at_s - self._pace.seconds(work)
        return start_by_s, fact.deadline_at_s, work.prompt_tokens, work.output_tokens
