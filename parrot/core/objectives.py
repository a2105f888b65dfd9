"""Objective deduction (paper, section 5.2): from how results are wanted to how each call is to be run.

Walks the graph backwards from its wanted variables.

    m0 ─┐                                       m0, m1, m2   latency, task group `reduce/0`
    m1 ─┼─▶ reduce ─▶ summary ◀─ get(latency)   reduce       latency
    m2 ─┘

* **Wanted.** A reader says how it waits for a variable: `latency` or `throughput`. The last call of a path,
  whose outputs nobody consumes and nobody has spoken of, is wanted as the session says, else with latency.
* **Latency path.** As in the paper, the call that generates a latency-critical variable is latency-sensitive,
  and so is every call on a path to it.
* **Throughput region.** Everything above a throughput-annotated variable is throughput work.
* **Mixed.** A call with demands of both kinds is latency-sensitive: the strictest wins.
* **Task group.** Calls at one stage that feed one consumer are wanted together: nobody gains when one of them
  is early. On a latency path the group's joint completion is what counts, so its calls are batched for
  throughput (`CallObjective.batched_for`) although their objective stays latency. The consumer is the group's
  *join*. A call that feeds nothing but one call of a group belongs to a lane towards the same join, and forms
  a group with the calls of its stage in the other lanes:

      p0 ─▶ m0 ─┐
      p1 ─▶ m1 ─┼─▶ reduce        groups reduce/0 = {p0, p1, p2} and reduce/1 = {m0, m1, m2}
      p2 ─▶ m2 ─┘

* **Alone.** A call whose own output is waited for with latency, or that is the only one of its stage before a
  latency-sensitive consumer, holds that up by itself: it is in no group. Nor is the last call of a group that
  has still to end: the join waits for nothing else of that stage.
* **Gone.** When all that waited for a call has been cancelled, nobody waits: throughput work.

A native function in the client is a gap: what it reads looks like a result, what it sets like an input.

The result follows from the graph's present state and from what readers have said, not from the order in which
that came about (invariants O1 to O4).
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum

from parrot.core.analysis.dataflow import BackwardAnalysis, consumers, is_open
from parrot.core.graph import ApplicationGraph, Call
from parrot.types.ids import CallId, VariableId
from parrot.types.objective import CallObjective, Objective


class _Demand(IntEnum):
    """What a consumer makes of a call, the strictest first."""

    LATENCY_ALONE = 0
    LATENCY_LANE = 1
    """The only one of its stage before a call of a group."""
    LATENCY_GROUP = 2
    THROUGHPUT_GROUP = 3
    THROUGHPUT_LANE = 4
    THROUGHPUT_ALONE = 5

    @property
    def objective(self) -> Objective:
        return "latency" if self <= _Demand.LATENCY_GROUP else "throughput"


_Ask = tuple[_Demand, int, CallId, CallId]
"""What is demanded; which join was submitted how early, its id; and the consumer that asks."""


_GROUPED = frozenset({_Demand.LATENCY_GROUP, _Demand.THROUGHPUT_GROUP})
_LANES = frozenset({_Demand.LATENCY_LANE, _Demand.THROUGHPUT_LANE})


class _Wanted:
    """How a call is wanted. Calls that are wanted alike for one reason share one of these."""

    __slots__ = ("_alone", "_joint", "group", "join", "objective", "stage", "why", "why_joint")

    def __init__(
        self, objective: Objective, *, stage: int, why: str, join: CallId | None = None, why_joint: str = ""
    ) -> None:
        self.objective = objective
        self.join = join
        """Where it comes together with others of its stage, if there are others."""
        self.group = None if join is None else f"{join}/{stage}"
        self.stage = stage
        self.why = why
        self.why_joint = why_joint
        self._alone: CallObjective | None = None
        self._joint: CallObjective | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Wanted):
            return NotImplemented
        return self is other or (
            self.objective == other.objective
            and self.join == other.join
            and self.stage == other.stage
            and self.why == other.why
            and self.why_joint == other.why_joint
        )

    __hash__ = None  # type: ignore[assignment]  # they are compared, never looked up

    def alone(self, deadline_at_s: float | None) -> CallObjective:
        """The objective when nothing else is wanted together with the call."""
        if self._alone is None:
            self._alone = CallObjective(
                objective=self.objective, deadline_at_s=deadline_at_s, stage=self.stage, why=self.why
            )
        return self._alone

    def joint(self, deadline_at_s: float | None) -> CallObjective:
        """The objective as one of a group."""
        if self._joint is None:
            self._joint = CallObjective(
                objective=self.objective,
                task_group=self.group,
                deadline_at_s=deadline_at_s,
                stage=self.stage,
                why=self.why_joint,
            )
        return self._joint


class _Deduce:
    """The rule of deduction for one call."""

    def __init__(self, graph: ApplicationGraph, default: Objective | None) -> None:
        self._graph = graph
        self._default = default
        self._last: tuple[_Ask, int, bool] | None = None
        self._last_wanted: _Wanted | None = None
        """What was deduced last from an ask: many calls feed one consumer."""
        self.stated: dict[VariableId, Objective] = {}
        self.positions: dict[CallId, int] = {}

    def judge(self, call: Call, strictest: _Ask | None) -> _Wanted:
        variables = self._graph.variables
        stated: dict[Objective, VariableId] = {}
        if self.stated:
            for variable_id in call.outputs.values():
                objective = self.stated.get(variable_id)
                if objective is not None and variables[variable_id].state == "pending":
                    stated[objective] = variable_id
        if "latency" in stated:
            name = variables[stated["latency"]].name or stated["latency"]
            return _Wanted("latency", stage=call.stage, why=f"someone waits for {name}")
        if strictest is not None:
            return self._asked(call, strictest)
        if "throughput" in stated:
            name = variables[stated["throughput"]].name or stated["throughput"]
            return _Wanted("throughput", stage=call.stage, why=f"{name} is wanted with throughput")
        for variable_id in call.outputs.values():
            if variables[variable_id].consumers or variable_id in self.stated:
                return _Wanted("throughput", stage=call.stage, why="nothing that is left waits for it")
        if self._default is not None:
            why = "a final result, and the session's objective"
            return _Wanted(self._default, stage=call.stage, why=why)
        why = "a final result, and nobody said how it is wanted"
        return _Wanted("latency", stage=call.stage, why=why)

    def ask(self, call: Call, fact: _Wanted, producer: Call, num_beside: int) -> _Ask:
        del producer
        latency, join = fact.objective == "latency", call.call_id
        if num_beside > 1:
            demand = _Demand.LATENCY_GROUP if latency else _Demand.THROUGHPUT_GROUP
        elif fact.join is not None:
            demand = _Demand.LATENCY_LANE if latency else _Demand.THROUGHPUT_LANE
            join = fact.join
        else:
            demand = _Demand.LATENCY_ALONE if latency else _Demand.THROUGHPUT_ALONE
        return demand, self.positions[join], join, call.call_id

    def _asked(self, call: Call, ask: _Ask) -> _Wanted:
        demand, _, join, asker = ask
        grouped = demand in _GROUPED or (demand in _LANES and _has_one_consumer(self._graph, call))
        this = (ask, call.stage, grouped)
        if self._last_wanted is not None and self._last == this:
            return self._last_wanted
        kind = "latency-sensitive" if demand.objective == "latency" else "throughput work"
        name = self._graph.calls[asker].name
        self._last = this
        self._last_wanted = _Wanted(
            demand.objective,
            join=join if grouped else None,
            stage=call.stage,
            why=f"feeds {name}, which is {kind}",
            why_joint=f"wanted together with others, by {self._graph.calls[join].name}, which is {kind}",
        )
        return self._last_wanted


class ObjectiveDeduction:
    """The objective of every open call of a session, deduced anew as its graph changes.

    A call is open while it has not ended and one of its outputs is pending.
    """

    def __init__(
        self,
        graph: ApplicationGraph,
        *,
        default: Objective | None = None,
        deadline_at_s: float | None = None,
    ) -> None:
        """`default` and `deadline_at_s` are the session's."""
        self._deadline_at_s = deadline_at_s
        self._rule = _Deduce(graph, default)
        self._graph = graph
        self._num_added = 0
        self._wanted = BackwardAnalysis[_Wanted, _Ask](graph, self._rule)
        self._groups: dict[str, dict[CallId, None]] = {}
        self._group_of: dict[CallId, str] = {}
        self._objectives: dict[CallId, CallObjective] = {}
        self._regrouped: set[CallId] = set()
        """Calls whose groups have become groups, or have ceased to be."""
        self._changed: dict[CallId, None] = {}

    def added(self, call_ids: Iterable[CallId]) -> None:
        """The graph has these new calls, in this order."""
        call_ids = list(call_ids)
        for call_id in call_ids:
            self._rule.positions[call_id] = self._num_added
            self._num_added += 1
        self._wanted.added(call_ids)

    def stated(self, variable_id: VariableId, objective: Objective) -> None:
        """A reader said how it waits for a variable; of several readers the strictest counts."""
        if self._rule.stated.get(variable_id) in {objective, "latency"}:
            return
        self._rule.stated[variable_id] = objective
        producer = self._graph.producer(variable_id)
        if producer is not None:
            self._wanted.touched([producer.call_id])

    def resolved(self, variable_id: VariableId) -> None:
        """A variable has become ready or failed."""
        producer = self._graph.variables[variable_id].producer
        if producer is not None and not is_open(self._graph, self._graph.calls[producer]):
            self.ended(producer)
        else:
            self._wanted.resolved(variable_id)

    def ended(self, call_id: CallId) -> None:
        """A call has nothing more to produce."""
        if self._rule.positions.pop(call_id, None) is None:
            return
        self._wanted.ended(call_id)
        self._objectives.pop(call_id, None)
        self._changed.pop(call_id, None)
        self._regroup(call_id, None)
        self._regrouped.discard(call_id)

    def changes(self) -> tuple[CallId, ...]:
        """The calls whose objectives are new, or have changed, since this was last asked."""
        self._settle()
        changed = tuple(self._changed)
        self._changed.clear()
        return changed

    def objective(self, call_id: CallId) -> CallObjective | None:
        """A call's objective; None when it is not open."""
        self._settle()
        return self._objectives.get(call_id)

    def objectives(self) -> Mapping[CallId, CallObjective]:
        """The objectives of all open calls."""
        self._settle()
        return dict(self._objectives)

    def group(self, task_group: str) -> tuple[CallId, ...]:
        """The open calls of a task group."""
        self._settle()
        members = tuple(self._groups.get(task_group, ()))
        return members if len(members) > 1 else ()

    def _settle(self) -> None:
        if self._wanted.is_settled and not self._regrouped:
            return
        judged = self._wanted.settle()
        for call_id in judged:
            wanted = self._wanted.fact(call_id)
            assert wanted is not None, f"{call_id} was judged, it has a fact"
            self._regroup(call_id, wanted.group)
        moved: Iterable[CallId] = judged
        if self._regrouped:
            moved = dict.fromkeys((*judged, *sorted(self._regrouped)))
            self._regrouped.clear()
        for call_id in moved:
            objective = self._objective(call_id)
            if objective is None:
                continue
            before = self._objectives.get(call_id)
            if before is not objective and before != objective:
                self._objectives[call_id] = objective
                self._changed[call_id] = None

    def _objective(self, call_id: CallId) -> CallObjective | None:
        wanted = self._wanted.fact(call_id)
        if wanted is None:
            return None
        group = self._group_of.get(call_id)
        if group is not None and len(self._groups[group]) > 1:
            return wanted.joint(self._deadline_at_s)
        return wanted.alone(self._deadline_at_s)

    def _regroup(self, call_id: CallId, group: str | None) -> None:
        """Move a call from its group to another; who is left alone, or no longer alone, is marked."""
        before = self._group_of.get(call_id)
        if before == group:
            return
        if before is not None:
            del self._group_of[call_id]
            members = self._groups[before]
            del members[call_id]
            if len(members) == 1:
                self._regrouped.update(members)
            elif not members:
                del self._groups[before]
        if group is not None:
            self._group_of[call_id] = group
            members = self._groups.setdefault(group, {})
            members[call_id] = None
            if len(members) == 2:
                self._regrouped.update(members)


def deduce(
    graph: ApplicationGraph,
    stated: Mapping[VariableId, Objective],
    *,
    default: Objective | None = None,
    deadline_at_s: float | None = None,
) -> Mapping[CallId, CallObjective]:
    """The objectives of all open calls, deduced at once."""
    deduction = ObjectiveDeduction(graph, default=default, deadline_at_s=deadline_at_s)
    deduction.added(graph.calls)
    for variable_id, objective in stated.items():
        deduction.stated(variable_id, objective)
    return deduction.objectives()


def _has_one_consumer(graph: ApplicationGraph, call: Call) -> bool:
    found = consumers(graph, call)
    return next(found, None) is not None and next(found, None) is None
