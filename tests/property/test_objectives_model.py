"""Objective deduction over random graphs and histories, beside the definition written down naively."""

from collections.abc import Mapping, Sequence
from functools import cache
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from parrot.core.graph import ApplicationGraph, Call, NewCall, Spread
from parrot.core.limits import Limits
from parrot.core.objectives import ObjectiveDeduction, deduce
from parrot.errors import GraphError
from parrot.types.events import Failure, NewVariable
from parrot.types.ids import CallId, VariableId
from parrot.types.objective import Objective

STOP = Failure(code="cancelled", message="stop")


class Definition:
    """What the documentation of deduction says, by exhaustive search."""

    def __init__(
        self, graph: ApplicationGraph, stated: Mapping[VariableId, Objective], default: Objective | None
    ) -> None:
        self.graph = graph
        self.stated = stated
        self.default = default or "latency"
        self.order = {call_id: index for index, call_id in enumerate(graph.calls)}
        self.open = {c for c, call in graph.calls.items() if not call.ended and self.pending(call)}
        self.join = cache(self._join)
        self.objective = cache(self._objective)

    def pending(self, call: Call) -> list[VariableId]:
        return [v for v in call.outputs.values() if self.graph.variables[v].state == "pending"]

    def asking(self, call_id: CallId) -> set[CallId]:
        """Open consumers of pending outputs."""
        pending = self.pending(self.graph.calls[call_id])
        return {d for v in pending for d in self.graph.variables[v].consumers if d in self.open}

    def own(self, call_id: CallId) -> set[Objective]:
        pending = self.pending(self.graph.calls[call_id])
        return {self.stated[v] for v in pending if v in self.stated}

    def ever_consumers(self, call_id: CallId) -> set[CallId]:
        outputs = self.graph.calls[call_id].outputs.values()
        return {d for v in outputs for d in self.graph.variables[v].consumers}

    def is_result(self, call_id: CallId) -> bool:
        outputs = self.graph.calls[call_id].outputs.values()
        return not self.ever_consumers(call_id) and not any(v in self.stated for v in outputs)

    def reachable(self, call_id: CallId) -> set[CallId]:
        found, queue = {call_id}, [call_id]
        while queue:
            for other in self.asking(queue.pop()):
                if other not in found:
                    found.add(other)
                    queue.append(other)
        return found

    def _objective(self, call_id: CallId) -> Objective:
        """O2: latency exactly when a path leads to something that is wanted so."""
        for other in self.reachable(call_id):
            if "latency" in self.own(other) or (self.is_result(other) and self.default == "latency"):
                return "latency"
        return "throughput"

    def beside(self, consumer: CallId, stage: int) -> int:
        inputs = self.graph.calls[consumer].inputs.values()
        producers = {self.graph.variables[v].producer for v in inputs} - {None}
        return sum(self.graph.calls[p].stage == stage for p in producers if p is not None)

    def _join(self, call_id: CallId) -> CallId | None:
        if "latency" in self.own(call_id):
            return None
        objective = self.objective(call_id)
        stage = self.graph.calls[call_id].stage
        asking = [d for d in self.asking(call_id) if self.objective(d) == objective]
        groups = [d for d in asking if self.beside(d, stage) > 1]
        lanes = [d for d in asking if d not in groups and self.join(d) is not None]
        alone = [d for d in asking if d not in groups and d not in lanes]
        if objective == "latency" and alone:
            return None
        if groups and (objective == "throughput" or not lanes):
            return min(groups, key=self.order.__getitem__)
        if lanes and len(self.ever_consumers(call_id)) == 1:
            return self.join(lanes[0])
        return None

    def told(self) -> dict[CallId, tuple[Objective, str | None, int]]:
        groups: dict[CallId, str] = {}
        for call_id in self.open:
            join = self.join(call_id)
            if join is not None:
                groups[call_id] = f"{join}/{self.graph.calls[call_id].stage}"
        sizes = {group: list(groups.values()).count(group) for group in groups.values()}
        shown = {c: group for c, group in groups.items() if sizes[group] > 1}
        return {c: (self.objective(c), shown.get(c), self.graph.calls[c].stage) for c in self.open}


class History:
    """A graph that random things happen to, and a deduction that is told of them."""

    def __init__(self, default: Objective | None) -> None:
        self.graph = ApplicationGraph(Limits())
        self.default = default
        self.deduction = ObjectiveDeduction(self.graph, default=default)
        self.stated: dict[VariableId, Objective] = {}
        self.num_calls = 0

    def add(self, calls: Sequence[tuple[frozenset[str], frozenset[str]]]) -> None:
        """Calls as sets of variables, inputs and outputs; those that would not be accepted are left out."""
        new: list[NewCall] = []
        taken: set[str] = set()
        for inputs, outputs in calls:
            free = [v for v in sorted(outputs) if v not in taken and self.may_produce(VariableId(v))]
            if free:
                taken.update(free)
                call_id = CallId(f"c{self.num_calls}")
                self.num_calls += 1
                new.append(
                    NewCall(
                        call_id=call_id,
                        name=call_id,
                        inputs={v: VariableId(v) for v in sorted(inputs)},
                        outputs={v: VariableId(v) for v in free},
                    )
                )
        used = dict.fromkeys(v for c in new for v in (*c.inputs.values(), *c.outputs.values()))
        variables = [NewVariable(variable_id=v, name=None) for v in used if v not in self.graph.variables]
        try:
            self.graph.check(new, variables)
        except GraphError:
            return
        added = self.graph.add(new, variables)
        self.deduction.added([call.call_id for call in new])
        self.tell(added.failed)

    def may_produce(self, variable_id: VariableId) -> bool:
        known = self.graph.variables.get(variable_id)
        return known is None or (known.producer is None and known.state == "pending")

    def tell(self, spread: Spread) -> None:
        for variable_id, _ in spread.variables:
            self.deduction.resolved(variable_id)
        for call_id in spread.calls:
            self.deduction.ended(call_id)

    def resolve(self, variable_id: VariableId) -> None:
        """A value comes only from a call that could run."""
        producer = self.graph.producer(variable_id)
        if producer is not None:
            if producer.state == "ready":
                self.graph.start(producer.call_id)
            if producer.state != "running":
                return
        if self.graph.resolve(variable_id, "text") is not None:
            self.deduction.resolved(variable_id)
        if producer is not None and all(
            self.graph.variables[v].state != "pending" for v in producer.outputs.values()
        ):
            self.graph.finish(producer.call_id)
            self.deduction.ended(producer.call_id)

    def state(self, variable_id: VariableId, objective: Objective) -> None:
        if self.stated.get(variable_id) != "latency":
            self.stated[variable_id] = objective
        self.deduction.stated(variable_id, objective)

    def check(self) -> None:
        """O1, O2, O3 and O4."""
        told = self.deduction.objectives()
        assert told == deduce(self.graph, self.stated, default=self.default)
        definition = Definition(self.graph, self.stated, self.default)
        assert {c: (o.objective, o.task_group, o.stage) for c, o in told.items()} == definition.told()
        for call_id, found in told.items():
            if found.task_group is not None:
                members = self.deduction.group(found.task_group)
                assert call_id in members
                assert len(members) > 1
                assert {(told[m].objective, told[m].stage) for m in members} == {
                    (found.objective, found.stage)
                }
                assert "latency" not in definition.own(call_id)


VARIABLES = [f"v{i}" for i in range(10)]
SETS = st.frozensets(st.sampled_from(VARIABLES), max_size=4)
OPERATIONS = st.one_of(
    st.tuples(st.just("add"), st.lists(st.tuples(SETS, SETS), min_size=1, max_size=5)),
    st.tuples(st.sampled_from(("resolve", "fail", "latency", "throughput")), st.sampled_from(VARIABLES)),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("ask"), st.none()),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(OPERATIONS, min_size=4, max_size=30), st.sampled_from([None, "latency", "throughput"]))
def test_deduction_step_by_step_is_deduction_at_once_and_the_definition(
    operations: Sequence[tuple[str, object]], default: Objective | None
) -> None:
    """O1 to O4, with late producers, several outputs, failures, and questions in between or not."""
    history = History(default)
    for kind, argument in operations:
        act(history, kind, argument)
    history.check()


def act(history: History, kind: str, argument: object) -> None:
    if kind == "add":
        assert isinstance(argument, list)
        history.add(argument)
    elif kind == "cancel":
        assert isinstance(argument, int)
        if history.graph.calls:
            names = list(history.graph.calls)
            call_id = names[argument % len(names)]
            history.tell(history.graph.fail_call(call_id, STOP, state="cancelled"))
    elif kind == "ask":
        history.check()
    elif isinstance(argument, str) and argument in history.graph.variables:
        variable_id = VariableId(argument)
        if kind == "resolve":
            history.resolve(variable_id)
        elif kind == "fail":
            history.tell(history.graph.fail(variable_id, STOP))
        else:
            history.state(variable_id, "latency" if kind == "latency" else "throughput")


@settings(deadline=None, max_examples=100)
@given(st.randoms(use_true_random=False), st.sampled_from([None, "latency", "throughput"]))
def test_layered_graphs_that_run_to_their_end_are_deduced_right_at_every_step(
    chance: Random, default: Objective | None
) -> None:
    """O1 to O4 on graphs with many groups: layers of calls that read from the layer before."""
    history = History(default)
    batches = layers(chance)
    if chance.random() < 0.3:
        batches.reverse()
    for batch in batches:
        history.add(batch)
        if chance.random() < 0.5:
            history.check()
    for variable_id in chance.sample(list(history.graph.variables), k=len(batches)):
        history.state(variable_id, chance.choice(["latency", "throughput"]))
    history.check()
    for _ in range(200):
        open_calls = [call for call in history.graph.calls.values() if not call.ended]
        if not open_calls:
            break
        step(history, chance, chance.choice(open_calls))
        history.check()


def layers(chance: Random) -> list[list[tuple[frozenset[str], frozenset[str]]]]:
    """Batches of calls, each with one output or two."""
    before: list[str] = []
    batches = []
    for layer in range(chance.randrange(2, 6)):
        names = [f"l{layer}_{i}" for i in range(chance.randrange(1, 6))]
        size = min(len(before), chance.choice([1, 2, len(before) or 1]))
        batch = []
        while names:
            size_out = chance.choice([1, 1, 2])
            outputs, names = names[:size_out], names[size_out:]
            batch.append((frozenset(chance.sample(before, size)), frozenset(outputs)))
        before = [v for _, outputs in batch for v in sorted(outputs)]
        batches.append(batch)
    return batches


def step(history: History, chance: Random, call: Call) -> None:
    """Something happens to a call that has not ended: one output comes, a reader or a consumer, or an end."""
    variable_id = chance.choice(list(call.outputs.values()))
    luck = chance.random()
    if luck < 0.6:
        history.resolve(variable_id)
    elif luck < 0.7:
        history.tell(history.graph.fail_call(call.call_id, STOP, state="cancelled"))
    elif luck < 0.75:
        history.tell(history.graph.fail(variable_id, STOP))
    elif luck < 0.85:
        history.state(variable_id, chance.choice(["latency", "throughput"]))
    else:
        other = chance.choice(list(history.graph.variables))
        history.add([(frozenset({variable_id, other}), frozenset({f"x{history.num_calls}"}))])
