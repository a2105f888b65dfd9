"""The application graph against a model written independently: plain sets, recomputed each time."""

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parrot.core.graph import ApplicationGraph, CallState, NewCall, Spread
from parrot.core.limits import Limits
from parrot.errors import ConflictError, GraphError
from parrot.types.events import Failure, NewVariable
from parrot.types.ids import CallId, VariableId

BOOM = Failure(code="engine_failed", message="boom")
STOP = Failure(code="cancelled", message="stop")
ENDED = {"done", "failed", "cancelled"}


@dataclass
class ModelCall:
    inputs: frozenset[str]
    outputs: frozenset[str]
    state: CallState


@dataclass
class Model:
    """What should be; settled by going over everything until nothing moves."""

    values: dict[str, str | None] = field(default_factory=dict)
    """Variable → value; None while pending."""
    roots: dict[str, str] = field(default_factory=dict)
    """Failed variable → code of the failure that began it."""
    calls: dict[str, ModelCall] = field(default_factory=dict)

    def settle(self) -> None:
        moved = True
        while moved:
            moved = False
            for call in self.calls.values():
                if call.state != "waiting":
                    continue
                broken = sorted(v for v in call.inputs if v in self.roots)
                if broken:
                    call.state = "failed"
                    self.end_outputs(call, self.roots[broken[0]])
                    moved = True
                elif all(self.values[v] is not None for v in call.inputs):
                    call.state = "ready"
                    moved = True

    def end_outputs(self, call: ModelCall, root: str) -> None:
        for variable in call.outputs:
            if self.values[variable] is None and variable not in self.roots:
                self.roots[variable] = root

    def producer(self, variable: str) -> str | None:
        return next((c for c, call in self.calls.items() if variable in call.outputs), None)

    def pending(self, variable: str) -> bool:
        return self.values.get(variable) is None and variable not in self.roots

    def edges(self) -> set[tuple[str, str]]:
        return {(a, b) for a, x in self.calls.items() for b, y in self.calls.items() if x.outputs & y.inputs}

    def stages(self) -> dict[str, int]:
        """Longest paths, by relaxing every edge as often as there are calls."""
        edges = self.edges()
        stages = dict.fromkeys(self.calls, 0)
        for _ in self.calls:
            for a, b in edges:
                stages[b] = max(stages[b], stages[a] + 1)
        return stages

    def branch(self, sources: set[str]) -> set[str]:
        edges = self.edges()
        reached = set(sources)
        while more := {b for a, b in edges if a in reached} - reached:
            reached |= more
        return {c for c in reached if self.calls[c].state not in ENDED}


class Twins:
    """The graph and its model, driven with the same operations."""

    def __init__(self) -> None:
        self.graph = ApplicationGraph(Limits())
        self.model = Model()

    def add(self, calls: list[tuple[str, frozenset[str], frozenset[str]]]) -> None:
        names = sorted(
            {v for _, inputs, outputs in calls for v in inputs | outputs} - self.model.values.keys()
        )
        new_calls = [
            NewCall(
                call_id=CallId(name),
                name=name,
                inputs={f"in_{v}": VariableId(v) for v in sorted(inputs)},
                outputs={f"out_{v}": VariableId(v) for v in sorted(outputs)},
            )
            for name, inputs, outputs in calls
        ]
        before = snapshot(self.graph)
        if self._refused(calls):
            with pytest.raises((GraphError, ConflictError)):
                self.graph.add(new_calls, [NewVariable(variable_id=VariableId(v), name=v) for v in names])
            assert snapshot(self.graph) == before
            return
        added = self.graph.add(new_calls, [NewVariable(variable_id=VariableId(v), name=v) for v in names])
        pending_before = {v for v in self.model.values if self.model.pending(v)} | set(names)
        self.model.values.update(dict.fromkeys(names))
        for name, inputs, outputs in calls:
            self.model.calls[name] = ModelCall(inputs, outputs, "waiting")
        waiting = self.waiting()
        self.model.settle()
        assert set(added.ready) == {c for c in waiting if self.model.calls[c].state == "ready"}
        self.check_spread(added.failed, waiting, pending_before)

    def _refused(self, calls: list[tuple[str, frozenset[str], frozenset[str]]]) -> bool:
        trial = Model(dict(self.model.values), {}, dict(self.model.calls))
        produced: set[str] = set()
        for name, inputs, outputs in calls:
            taken = (
                {v for v in outputs if self.model.producer(v) or not self.model.pending(v)}
                if outputs
                else set()
            )
            if taken or outputs & produced:
                return True
            produced |= outputs
            trial.calls[name] = ModelCall(inputs, outputs, "waiting")
        edges = trial.edges()
        open_calls = set(trial.calls)
        while free := {c for c in open_calls if not any(b == c and a in open_calls for a, b in edges)}:
            open_calls -= free
        return bool(open_calls)

    def waiting(self) -> set[str]:
        return {c for c, call in self.model.calls.items() if call.state == "waiting"}

    def resolve(self, variable: str) -> None:
        was_pending = self.model.pending(variable)
        ready = self.graph.resolve(VariableId(variable), "text")
        assert (ready is not None) == was_pending
        if was_pending:
            self.model.values[variable] = "text"
            waiting = self.waiting()
            self.model.settle()
            assert set(ready or ()) == {c for c in waiting if self.model.calls[c].state == "ready"}

    def fail(self, variable: str) -> None:
        pending = {v for v in self.model.values if self.model.pending(v)}
        spread = self.graph.fail(VariableId(variable), BOOM)
        if variable in pending:
            self.model.roots[variable] = BOOM.code
        waiting = self.waiting()
        self.model.settle()
        self.check_spread(spread, waiting, pending)

    def end(self, name: str, state: CallState) -> None:
        call = self.model.calls[name]
        pending = {v for v in self.model.values if self.model.pending(v)}
        if state == "done":
            for variable in call.outputs:
                self.resolve(variable)
            self.graph.finish(CallId(name))
            call.state = "done"
            return
        waiting = self.waiting()
        spread = (
            self.graph.fail_call(CallId(name), STOP, state="cancelled")
            if state == "cancelled"
            else self.graph.fail_call(CallId(name), BOOM)
        )
        if call.state not in ENDED:
            call.state = state
            self.model.end_outputs(call, STOP.code if state == "cancelled" else BOOM.code)
            waiting = waiting | {name}
        self.model.settle()
        self.check_spread(spread, waiting, pending)

    def check_spread(self, spread: Spread, waiting: set[str], pending: set[str]) -> None:
        """G5: exactly what could no longer be had has failed, named once, with its root cause, in order."""
        failed = [v for v, _ in spread.variables]
        assert len(failed) == len(set(failed))
        assert set(failed) == {v for v in pending if v in self.model.roots}
        assert sorted(spread.calls) == sorted(
            c for c in waiting if self.model.calls[c].state in {"failed", "cancelled"}
        )
        stages = [self.graph.calls[c].stage for c in spread.calls]
        assert stages == sorted(stages)
        for variable, failure in spread.variables:
            assert failure.data.get("root", failure.code) in {BOOM.code, STOP.code}
            assert self.graph.variables[variable].failure == failure

    def check(self) -> None:
        """G1 to G4, G6 and G7, on the whole graph."""
        graph, model = self.graph, self.model
        assert {c: merged(call.state) for c, call in graph.calls.items()} == {
            c: merged(call.state) for c, call in model.calls.items()
        }
        assert {v: x.value for v, x in graph.variables.items()} == model.values
        assert {v for v, x in graph.variables.items() if x.state == "failed"} == model.roots.keys()
        assert {c: call.stage for c, call in graph.calls.items()} == model.stages()
        assert {(a, b) for a, b, _ in graph.edges()} == model.edges()
        states = [call.state for call in graph.calls.values()]
        assert dict(graph.counts) == {state: states.count(state) for state in graph.counts}
        for call_id, call in graph.calls.items():
            missing = sum(model.pending(v) for v in model.calls[call_id].inputs)
            assert call.state != "waiting" or call.num_missing == missing > 0
        for variable_id, variable in graph.variables.items():
            assert variable.producer == model.producer(variable_id)
            assert len(set(variable.consumers)) == len(variable.consumers)


def merged(state: CallState) -> str:
    """A call with several failed inputs ends as the first that failed says; the model does not know which."""
    return "failed or cancelled" if state in {"failed", "cancelled"} else state


def snapshot(graph: ApplicationGraph) -> object:
    """Everything a refused addition may not change."""
    return (
        {c: (call.state, call.stage, call.num_missing) for c, call in graph.calls.items()},
        {v: (x.state, x.producer, tuple(x.consumers)) for v, x in graph.variables.items()},
        dict(graph.counts),
    )


VARIABLES = [f"v{i}" for i in range(9)]
VARIABLE_SETS = st.frozensets(st.sampled_from(VARIABLES), max_size=3)
OPERATIONS = st.one_of(
    st.tuples(st.just("add"), st.lists(st.tuples(VARIABLE_SETS, VARIABLE_SETS), min_size=1, max_size=4)),
    st.tuples(st.sampled_from(("resolve", "fail")), st.sampled_from(VARIABLES)),
    st.tuples(st.sampled_from(("run", "cancel", "fail_call", "branch")), st.integers(0, 100)),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(OPERATIONS, min_size=6, max_size=30))
def test_any_order_of_operations_leaves_the_graph_as_the_model_says(
    operations: list[tuple[str, object]],
) -> None:
    """G1 to G7 and G9, with producers before and after their consumers, cycles and second producers."""
    twins = Twins()
    num_calls = 0
    for kind, argument in operations:
        if kind == "add":
            assert isinstance(argument, list)
            calls = []
            for inputs, outputs in argument:
                calls.append((f"c{num_calls}", inputs, outputs))
                num_calls += 1
            twins.add(calls)
        elif isinstance(argument, str):
            if argument in twins.model.values:
                (twins.resolve if kind == "resolve" else twins.fail)(argument)
        elif twins.model.calls:
            names = list(twins.model.calls)
            assert isinstance(argument, int)
            drive(twins, kind, names[argument % len(names)])
        twins.check()


def drive(twins: Twins, kind: str, name: str) -> None:
    """One operation on one call, as an executor would do it."""
    state = twins.model.calls[name].state
    if kind == "run" and state in {"ready", "running"}:
        if state == "ready":
            twins.graph.start(CallId(name))
            twins.model.calls[name].state = "running"
        else:
            twins.end(name, "done")
    elif kind == "cancel":
        twins.end(name, "cancelled")
    elif kind == "fail_call":
        twins.end(name, "failed")
    elif kind == "branch":
        order = twins.graph.branch([CallId(name)], [])
        assert set(order) == twins.model.branch({name})
        stages = [twins.graph.calls[c].stage for c in order]
        assert stages == sorted(stages)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 200), st.randoms(use_true_random=False))
def test_random_graphs_run_to_their_end(num_calls: int, chance: Random) -> None:
    """G8: whatever is submitted, in whatever order, ends once every call that becomes ready is run."""
    calls = []
    for i in range(num_calls):
        inputs = (
            frozenset(f"c{chance.randrange(i)}_out" for _ in range(chance.randrange(4))) if i else frozenset()
        )
        calls.append((f"c{i}", inputs, frozenset({f"c{i}_out"})))
    chance.shuffle(calls)
    twins = Twins()
    while calls:
        size = chance.randrange(1, 40)
        twins.add(calls[:size])
        del calls[:size]
    faulty = set(chance.sample(range(num_calls), chance.randrange(max(1, num_calls // 10))))
    while ready := [c for c, call in twins.model.calls.items() if call.state == "ready"]:
        name = chance.choice(ready)
        twins.graph.start(CallId(name))
        twins.model.calls[name].state = "running"
        twins.end(name, "failed" if int(name[1:]) in faulty else "done")
    twins.check()
    assert all(call.ended for call in twins.graph.calls.values())
    assert all(variable.state != "pending" for variable in twins.graph.variables.values())
