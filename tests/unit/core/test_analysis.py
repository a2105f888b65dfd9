"""Analysis primitives: work, critical paths, slack, and that they cost what changes."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from random import Random

import pytest

from parrot.core.analysis.application import ApplicationAnalysis
from parrot.core.estimates import (
    TRUSTED_SAMPLES,
    UNKNOWN_INPUT_TOKENS,
    CallShape,
    FunctionKey,
    OutputLengths,
    OutputShape,
    Pace,
    Work,
)
from parrot.core.graph import ApplicationGraph, NewCall
from parrot.core.limits import Limits
from parrot.types.events import Failure, NewVariable
from parrot.types.ids import CallId, VariableId
from parrot.types.sampling import Sampling

STOP = Failure(code="cancelled", message="stop")
PACE = Pace(prefill_s=0.001, decode_s=0.1)
CONSTANT = 100
OUTPUT = 10


class Application:
    """A graph and its analysis. Every call has a constant part of 100 tokens and outputs of 10 tokens."""

    def __init__(self, deadline_at_s: float | None = None, limits: Limits | None = None) -> None:
        self.graph = ApplicationGraph(limits or Limits())
        self.lengths = OutputLengths()
        self.max_tokens: dict[str, int] = {}
        self.analysis = ApplicationAnalysis(
            self.graph, shape=self.shape, lengths=self.lengths, pace=PACE, deadline_at_s=deadline_at_s
        )

    def shape(self, call_id: CallId) -> CallShape:
        call = self.graph.calls[call_id]
        sampling = Sampling(max_tokens=self.max_tokens.get(call_id, OUTPUT))
        key = FunctionKey(call.name.split("_")[0].encode())
        return CallShape(
            constant_tokens=CONSTANT,
            inputs=dict.fromkeys(call.inputs.values(), 1),
            outputs=tuple(
                OutputShape(variable_id=v, function=key, sampling=sampling) for v in call.outputs.values()
            ),
        )

    def submit(self, calls: Mapping[str, Sequence[str]], values: Mapping[str, str] | None = None) -> None:
        """Call → the variables it reads; its own output has its name, and further ones in `name+`."""
        new = [
            NewCall(
                call_id=CallId(name),
                name=name,
                inputs={v: VariableId(v) for v in inputs},
                outputs={name: VariableId(name)},
            )
            for name, inputs in calls.items()
        ]
        used = dict.fromkeys(v for c in new for v in (*c.inputs.values(), *c.outputs.values()))
        fresh = [v for v in used if v not in self.graph.variables]
        self.graph.add(
            new, [NewVariable(variable_id=v, name=None, value=(values or {}).get(v)) for v in fresh]
        )
        self.analysis.added([call.call_id for call in new])

    def finish(self, name: str, value: str = "four bytes") -> None:
        call_id, variable_id = CallId(name), VariableId(name)
        self.graph.start(call_id)
        self.graph.resolve(variable_id, value)
        self.analysis.resolved(variable_id, num_generated=5)
        self.graph.finish(call_id)
        self.analysis.ended(call_id)

    def cancel(self, name: str) -> None:
        spread = self.graph.fail_call(CallId(name), STOP, state="cancelled")
        for variable_id, _ in spread.variables:
            self.analysis.resolved(variable_id)
        for call_id in spread.calls:
            self.analysis.ended(call_id)


def work(prompt: int, output: int) -> Work:
    return Work(prompt_tokens=prompt, output_tokens=output)


def test_an_input_that_is_not_there_yet_counts_as_its_producer_is_expected_to_write() -> None:
    application = Application()
    application.max_tokens["a"] = 40
    application.submit({"a": [], "b": ["a", "x"], "c": ["y"]}, values={"x": "12345678"})
    assert application.analysis.work(CallId("a")) == work(CONSTANT, 40)
    assert application.analysis.work(CallId("b")) == work(CONSTANT + 40 + 2, OUTPUT)
    assert application.analysis.work(CallId("c")) == work(CONSTANT + UNKNOWN_INPUT_TOKENS, OUTPUT)


def test_a_consumer_that_came_first_learns_of_its_producers_length() -> None:
    application = Application()
    application.submit({"b": ["a"]})
    assert application.analysis.work(CallId("b")) == work(CONSTANT + UNKNOWN_INPUT_TOKENS, OUTPUT)
    application.submit({"a": []})
    assert application.analysis.work(CallId("b")) == work(CONSTANT + OUTPUT, OUTPUT)


def test_a_value_counts_with_its_own_length_and_a_written_prompt_with_its_tokens() -> None:
    application = Application()
    application.submit({"a": [], "b": ["a"]})
    application.finish("a", "x" * 400)
    assert application.analysis.work(CallId("b")) == work(CONSTANT + 100, OUTPUT)
    application.analysis.measured(CallId("b"), 333)
    assert application.analysis.work(CallId("b")) == work(333, OUTPUT)
    application.analysis.refresh(CallId("b"))
    assert application.analysis.work(CallId("b")) == work(333, OUTPUT)


def test_a_prompt_that_was_written_counts_whatever_is_told_of_its_inputs_later() -> None:
    application = Application()
    application.submit({"a": [], "b": ["a"]})
    application.analysis.measured(CallId("b"), 333)
    application.finish("a", "x" * 400)
    assert application.analysis.work(CallId("b")) == work(333, OUTPUT)


def test_a_value_set_before_its_consumer_is_counted_once() -> None:
    application = Application()
    application.submit({"c": ["x"]})
    application.graph.put(VariableId("x"), None, "x" * 40)
    application.submit({"d": ["x"]})
    application.analysis.resolved(VariableId("x"))
    application.analysis.resolved(VariableId("x"))
    for name in ("c", "d"):
        assert application.analysis.work(CallId(name)) == work(CONSTANT + 10, OUTPUT)


def test_outputs_that_were_seen_shorten_what_is_expected_of_later_calls() -> None:
    application = Application()
    application.max_tokens = {f"map_{i}": 400 for i in range(TRUSTED_SAMPLES + 2)}
    application.submit({f"map_{i}": [] for i in range(TRUSTED_SAMPLES + 1)})
    for i in range(TRUSTED_SAMPLES):
        application.finish(f"map_{i}")
    last = CallId(f"map_{TRUSTED_SAMPLES}")
    assert application.analysis.work(last) == work(CONSTANT, 400)
    application.analysis.refresh(last)
    assert application.analysis.work(last) == work(CONSTANT, 5)
    application.submit({f"map_{TRUSTED_SAMPLES + 1}": []})
    assert application.analysis.work(CallId(f"map_{TRUSTED_SAMPLES + 1}")) == work(CONSTANT, 5)


def test_the_critical_path_is_the_longest_by_work_not_by_calls() -> None:
    """
    a ─┬─▶ short ──▶ short2 ─┬─▶ end
       └─▶ long ─────────────┘            (long writes 500 tokens)
    """
    application = Application()
    application.max_tokens["long"] = 500
    application.submit(
        {"a": [], "short": ["a"], "short2": ["short"], "long": ["a"], "end": ["short2", "long"]}
    )
    analysis = application.analysis
    assert analysis.critical_path() == ("a", "long", "end")
    assert analysis.critical_path(CallId("short")) == ("short", "short2", "end")
    after = work(CONSTANT + OUTPUT + 500, OUTPUT)
    assert analysis.path(CallId("end")) == after
    assert analysis.path(CallId("long")) == work(CONSTANT + OUTPUT, 500) + after
    assert analysis.path(CallId("a")) == work(CONSTANT, OUTPUT) + analysis.path(CallId("long"))
    application.cancel("long")
    assert analysis.critical_path(CallId("a")) == ("a", "short", "short2")


def test_a_session_deadline_leaves_each_call_what_its_path_does_not_take() -> None:
    application = Application(deadline_at_s=100.0)
    application.submit({"a": [], "b": ["a"]})
    of_b = 0.11 + 1.0
    assert application.analysis.slack_s(CallId("b"), now_s=90.0) == pytest.approx(10 - of_b)
    assert application.analysis.slack_s(CallId("a"), now_s=90.0) == pytest.approx(10 - of_b - 1.1)
    slow = Pace(prefill_s=0.0, decode_s=1.0)
    assert application.analysis.slack_s(CallId("a"), now_s=90.0, pace=slow) == pytest.approx(10 - 20)


def test_a_deadline_of_a_reader_counts_where_it_leaves_less_time() -> None:
    """a ─▶ b ─▶ c, the session by 100 s, a reader wants b by 50 s; then another by 40 s."""
    application = Application(deadline_at_s=100.0)
    application.submit({"a": [], "b": ["a"], "c": ["b"]})
    application.analysis.stated(VariableId("b"), deadline_at_s=50.0)
    due = application.analysis.due(CallId("a"))
    assert due is not None
    assert due.deadline_at_s == 50.0
    assert due.work == work(CONSTANT, OUTPUT) + work(CONSTANT + OUTPUT, OUTPUT)
    of_c = application.analysis.due(CallId("c"))
    assert of_c is not None
    assert of_c.deadline_at_s == 100.0
    application.analysis.stated(VariableId("b"), deadline_at_s=40.0)
    application.analysis.stated(VariableId("b"), deadline_at_s=90.0)
    due = application.analysis.due(CallId("a"))
    assert due is not None
    assert due.deadline_at_s == 40.0


def test_without_a_deadline_there_is_no_slack() -> None:
    application = Application()
    application.submit({"a": []})
    assert application.analysis.slack_s(CallId("a"), now_s=5.0) is None


def test_remaining_work_counts_every_call_below_once() -> None:
    """
    a ─┬─▶ b ─┬─▶ d
       └─▶ c ─┘
    """
    application = Application()
    application.submit({"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]})
    each = [application.analysis.work(CallId(name)) for name in "bcd"]
    below = application.analysis.remaining_below(CallId("a"))
    assert below == each[0] + each[1] + each[2]
    assert application.analysis.remaining == below + application.analysis.work(CallId("a"))
    application.finish("a")
    assert application.analysis.remaining_below(CallId("a")) == Work()
    application.finish("b")
    application.cancel("c")
    assert application.analysis.remaining == Work()


def test_producers_consumers_stages_and_objectives_are_told_together() -> None:
    application = Application()
    application.submit({"a": [], "b": ["a"], "c": ["a"]})
    analysis = application.analysis
    analysis.stated(VariableId("b"), "throughput")
    analysis.stated(VariableId("c"), "latency")
    producer = analysis.producer(VariableId("a"))
    assert producer is not None
    assert producer.call_id == "a"
    assert [call.call_id for call in analysis.consumers(VariableId("a"))] == ["b", "c"]
    assert analysis.stage(CallId("c")) == 1
    found = analysis.variable_objective(VariableId("a"))
    assert found is not None
    assert found.objective == "latency"
    assert set(analysis.changes()) == {"a", "b", "c"}
    application.cancel("c")
    assert [call.call_id for call in analysis.consumers(VariableId("a"))] == ["b"]
    assert analysis.changes() == ("a",)


def test_an_analysis_of_a_graph_that_has_calls_already_knows_them() -> None:
    application = Application()
    application.submit({"a": [], "b": ["a"]})
    again = ApplicationAnalysis(
        application.graph, shape=application.shape, lengths=application.lengths, pace=PACE
    )
    assert again.path(CallId("a")) == application.analysis.path(CallId("a"))
    assert again.remaining == application.analysis.remaining


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_the_analysis_is_that_of_a_new_one(seed: int) -> None:
    """A1: work, paths and dues, kept step by step, are those of the graph as it is."""
    chance = Random(seed)
    application = Application(deadline_at_s=1000.0)
    deadlines: dict[VariableId, float] = {}
    for step in range(40):
        names = list(application.graph.calls)
        ready = [c for c in names if application.graph.calls[c].state == "ready"]
        luck = chance.random()
        if luck < 0.5 or not names:
            name = f"f{chance.randrange(3)}_{step}"
            application.max_tokens[name] = chance.randrange(5, 100)
            reads = chance.sample([*names, "late"], min(len(names), chance.randrange(4)))
            application.submit({name: reads})
        elif luck < 0.75 and ready:
            application.finish(chance.choice(ready), "x" * chance.randrange(1000))
        elif luck < 0.8:
            application.cancel(chance.choice(names))
        elif luck < 0.9:
            application.analysis.measured(chance.choice(names), chance.randrange(500))
        else:
            variable_id = VariableId(chance.choice(names))
            deadlines[variable_id] = min(deadlines.get(variable_id, 999.0), chance.uniform(1, 900))
            application.analysis.stated(variable_id, deadline_at_s=deadlines[variable_id])
        if chance.random() < 0.4:
            check(application, deadlines)
    check(application, deadlines)


def check(application: Application, deadlines: Mapping[VariableId, float]) -> None:
    graph, analysis = application.graph, application.analysis
    live = [c for c, call in graph.calls.items() if not call.ended]
    works = {c: analysis.work(c) for c in live}
    assert analysis.remaining == sum(works.values(), Work())
    for call_id in sorted(live, key=lambda c: graph.calls[c].stage, reverse=True):
        below = [d for d in graph.variables[VariableId(call_id)].consumers if not graph.calls[d].ended]
        longest = max((PACE.seconds(analysis.path(d)) for d in below), default=0.0)
        assert PACE.seconds(analysis.path(call_id)) == pytest.approx(PACE.seconds(works[call_id]) + longest)
        slack = min(
            [
                1000.0,
                deadlines.get(VariableId(call_id), 1000.0),
                *(s for d in below if (s := analysis.slack_s(d, now_s=0.0)) is not None),
            ]
        ) - PACE.seconds(works[call_id])
        assert analysis.slack_s(call_id, now_s=0.0) == pytest.approx(slack)
    ended = [c for c in graph.calls if c not in works]
    assert all(analysis.path(c) == Work() and analysis.due(c) is None for c in ended)


# ── cost ────────────────────────────────────────────────────────────────────────────────────────────────────

ROOMY = Limits(
    max_batch_calls=10**6, max_session_calls=10**6, max_pending_calls=10**6, max_session_variables=10**6
)


def wide(num_calls: int) -> Application:
    """Map-reduces of ten calls each, and one call whose output half of all maps read."""
    application = Application(deadline_at_s=1000.0, limits=ROOMY)
    calls: dict[str, list[str]] = {"shared": []}
    for group in range(num_calls // 10):
        for i in range(9):
            calls[f"m_{group}_{i}"] = ["shared"] if i % 2 else []
        calls[f"r_{group}"] = [f"m_{group}_{i}" for i in range(9)]
    application.submit(calls)
    application.analysis.changes()
    application.analysis.slack_s(CallId("shared"), now_s=0.0)
    application.analysis.path(CallId("shared"))
    return application


def changes(application: Application) -> Iterator[Callable[[], None]]:
    """One small change after the other, each in another place, each followed by questions."""
    for number in range(0, 40, 4):
        yield partial(application.submit, {f"new_{number}": ["shared", f"r_{number}"]})
        yield partial(application.analysis.stated, VariableId(f"r_{number}"), "throughput")
        yield partial(application.finish, f"m_{number}_0")
        yield partial(application.cancel, f"r_{number + 1}")


def seconds_of_changes(num_calls: int) -> float:
    """How long a change and the questions after it take, in the median."""
    gc.collect()
    gc.disable()
    try:
        application = wide(num_calls)
        spent = []
        for act in changes(application):
            start = time.process_time()
            act()
            application.analysis.changes()
            for name in ("shared", "m_7_1", "r_4"):
                application.analysis.objective(CallId(name))
                application.analysis.slack_s(CallId(name), now_s=1.0)
            spent.append(time.process_time() - start)
    finally:
        gc.enable()
    return sorted(spent)[len(spent) // 2]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_change_costs_the_same_among_a_thousand_calls_and_a_hundred_thousand() -> None:
    """A2."""
    few, many = seconds_of_changes(1_000), seconds_of_changes(100_000)
    assert many < 0.001
    assert many < 5 * few + 0.0001
