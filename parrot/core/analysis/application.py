"""Everything that is known of one session's application beyond its graph; kept up to date by events.

Whoever changes the graph tells it what has changed, afterwards and in that order. An answer costs as much as
has changed since the last one, and never more for what else lives (invariant A2).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from parrot.core.analysis.dataflow import BackwardAnalysis, is_open
from parrot.core.analysis.paths import Due, DueAsk, LongestPath, NearestDeadline, PathAsk
from parrot.core.analysis.work import WorkTable
from parrot.core.estimates import CallShape, OutputLengths, Pace, Work
from parrot.core.graph import ApplicationGraph, Call
from parrot.core.objectives import ObjectiveDeduction
from parrot.core.topology import downstream
from parrot.types.ids import CallId, VariableId
from parrot.types.objective import CallObjective, Objective

_PACE = Pace()
"""Of engines that were not measured yet."""


class ApplicationAnalysis:
    """The analysis primitives of one session (paper, section 4.2).

    A call is open while it has not ended and one of its outputs is pending; only open calls have objectives,
    work and slack.
    """

    def __init__(
        self,
        graph: ApplicationGraph,
        *,
        shape: Callable[[CallId], CallShape],
        lengths: OutputLengths,
        pace: Pace | None = None,
        objective: Objective | None = None,
        deadline_at_s: float | None = None,
    ) -> None:
        """Analyse a graph, which may have calls already.

        Args:
            graph: read only.
            shape: gives a call's shape when it is added or refreshed.
            lengths: what is known of semantic functions; learns from this application too.
            pace: decides which of two paths is the longer.
            objective: the session's.
            deadline_at_s: the session's, by the clock in which `slack_s` is given the time.
        """
        pace = pace or _PACE
        self._graph = graph
        self._lengths = lengths
        self._pace = pace
        self._work = WorkTable(graph, lengths, shape)
        self._objectives = ObjectiveDeduction(graph, default=objective, deadline_at_s=deadline_at_s)
        self._deadlines = NearestDeadline(graph, self._work.get, pace, deadline_at_s)
        self._paths: BackwardAnalysis[Work, PathAsk] | None = None
        """From the first question for a path on."""
        self._dues: BackwardAnalysis[Due | None, DueAsk] | None = None
        """From the first question for slack on, if there is a deadline."""
        self._in_use: tuple[BackwardAnalysis[Any, Any], ...] = ()
        """The analyses that somebody has asked for, to be told of everything."""
        if graph.calls:
            self.added(graph.calls)

    # ── events ──────────────────────────────────────────────────────────────────────────────────────────────

    def added(self, call_ids: Iterable[CallId]) -> None:
        """The graph has these new calls, in this order."""
        call_ids = list(call_ids)
        self._objectives.added(call_ids)
        for analysis in self._in_use:
            analysis.added(call_ids)
        self._touch(self._work.added(call_ids))

    def stated(
        self,
        variable_id: VariableId,
        objective: Objective | None = None,
        *,
        deadline_at_s: float | None = None,
    ) -> None:
        """A reader said how, or by when, it wants a variable; of several readers the strictest counts."""
        if objective is not None:
            self._objectives.stated(variable_id, objective)
        if deadline_at_s is not None:
            known = self._deadlines.stated.get(variable_id, deadline_at_s)
            self._deadlines.stated[variable_id] = min(known, deadline_at_s)
            producer = self._graph.producer(variable_id)
            if producer is not None and self._dues is not None:
                self._dues.touched([producer.call_id])

    def resolved(self, variable_id: VariableId, *, num_generated: int | None = None) -> None:
        """A variable has become ready or failed. `num_generated` tokens were generated for it, before any
        transform; semantic functions are learnt from that.
        """
        if num_generated is not None:
            producer = self._graph.variables[variable_id].producer
            for output in self._work.outputs(producer) if producer is not None else ():
                # How long an output is that has to be so long says nothing of others.
                if output.variable_id == variable_id and not output.sampling.ignore_eos:
                    self._lengths.observe(output.function, num_generated)
        self._objectives.resolved(variable_id)
        for analysis in self._in_use:
            analysis.resolved(variable_id)
        self._touch(self._work.resolved(variable_id))

    def ended(self, call_id: CallId) -> None:
        """A call has ended."""
        self._objectives.ended(call_id)
        for analysis in self._in_use:
            analysis.ended(call_id)
        self._work.ended(call_id)

    def measured(self, call_id: CallId, prompt_tokens: int) -> None:
        """A call's prompt has been written, and has so many tokens."""
        self._touch(self._work.measured(call_id, prompt_tokens))

    def refresh(self, call_id: CallId) -> None:
        """Take a call's shape and its expected outputs anew: it has been lowered, or more was learnt."""
        self._touch(self._work.refresh(call_id))

    def changes(self) -> tuple[CallId, ...]:
        """The calls whose objectives are new, or have changed, since this was last asked."""
        return self._objectives.changes()

    # ── the graph ───────────────────────────────────────────────────────────────────────────────────────────

    def producer(self, variable_id: VariableId) -> Call | None:
        """The call that produces a variable; None when a client sets it."""
        return self._graph.producer(variable_id)

    def consumers(self, variable_id: VariableId) -> tuple[Call, ...]:
        """The open calls that consume a variable."""
        return tuple(c for c in self._graph.consumers(variable_id) if is_open(self._graph, c))

    def stage(self, call_id: CallId) -> int:
        """Calls on the longest path that leads to a call."""
        return self._graph.calls[call_id].stage

    # ── objectives ──────────────────────────────────────────────────────────────────────────────────────────

    def objective(self, call_id: CallId) -> CallObjective | None:
        """A call's objective; None when it is not open."""
        return self._objectives.objective(call_id)

    def variable_objective(self, variable_id: VariableId) -> CallObjective | None:
        """A variable's objective is that of the call that produces it; None when none has it to produce."""
        producer = self._graph.producer(variable_id)
        return None if producer is None else self.objective(producer.call_id)

    def group(self, task_group: str) -> tuple[CallId, ...]:
        """The open calls of a task group."""
        return self._objectives.group(task_group)

    # ── work and time ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def remaining(self) -> Work:
        """The work of all open calls together."""
        return self._work.total

    def work(self, call_id: CallId) -> Work:
        """A call's expected work; none when it is not open."""
        return self._work.get(call_id)

    def path(self, call_id: CallId) -> Work:
        """The work on the longest path that begins with a call."""
        return self._settled_paths().fact(call_id) or Work()

    def critical_path(self, call_id: CallId | None = None) -> tuple[CallId, ...]:
        """The calls on the longest path from a call, or of the whole application, in the order in which they
        run. For the whole application it looks at every open call.
        """
        paths = self._settled_paths()
        if call_id is None:
            longest = max(paths.facts.items(), default=None, key=lambda item: self._pace.seconds(item[1]))
            call_id = None if longest is None else longest[0]
        elif paths.fact(call_id) is None:
            return ()
        found: list[CallId] = []
        while call_id is not None:
            found.append(call_id)
            call_id = paths.strictest_consumer(call_id)
        return tuple(found)

    def remaining_below(self, call_id: CallId) -> Work:
        """The work of all open calls that wait for a call, directly or through others, each counted once. It
        looks at all of them.
        """
        return sum((self.work(other) for other in downstream([call_id], self._waiting)[1:]), Work())

    def due(self, call_id: CallId) -> Due | None:
        """The deadline that leaves a call least time; None without one, or when the call is not open."""
        dues = self._dues or self._known_dues()
        if dues is None:
            return None
        dues.settle()
        return dues.fact(call_id)

    def slack_s(self, call_id: CallId, *, now_s: float, pace: Pace | None = None) -> float | None:
        """Seconds a call can wait before a deadline is missed, if all goes at `pace`; None without one."""
        due = self.due(call_id)
        return None if due is None else due.slack_s(now_s, pace or self._pace)

    def _waiting(self, call_id: CallId) -> Iterator[CallId]:
        """The open calls that wait for an output of a call."""
        for variable_id in self._graph.calls[call_id].outputs.values():
            if self._graph.variables[variable_id].state == "pending":
                yield from (consumer.call_id for consumer in self.consumers(variable_id))

    def _touch(self, call_ids: Iterable[CallId]) -> None:
        if not self._in_use:
            return
        call_ids = list(call_ids)
        for analysis in self._in_use:
            analysis.touched(call_ids)

    def settle_paths(self, most: int) -> bool:
        """Judge `most` calls towards knowing all paths and deadlines; says whether they are known."""
        analyses = (self._known_paths(), self._known_dues())
        for analysis in analyses:
            if analysis is not None and not analysis.is_settled:
                analysis.settle(most)
                return False
        return True

    def _known_paths(self) -> BackwardAnalysis[Work, PathAsk]:
        if self._paths is None:
            self._paths = BackwardAnalysis(self._graph, LongestPath(self._work.get, self._pace))
            self._paths.added(self._graph.calls)
            self._in_use = (*self._in_use, self._paths)
        return self._paths

    def _settled_paths(self) -> BackwardAnalysis[Work, PathAsk]:
        paths = self._known_paths()
        paths.settle()
        return paths

    def _known_dues(self) -> BackwardAnalysis[Due | None, DueAsk] | None:
        if self._dues is None and self._deadlines.any:
            self._dues = BackwardAnalysis(self._graph, self._deadlines)
            self._dues.added(self._graph.calls)
            self._in_use = (*self._in_use, self._dues)
        return self._dues
