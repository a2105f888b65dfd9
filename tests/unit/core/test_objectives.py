"""What is deduced for graphs of known shapes. A call is named by a letter or word, its output `<name>.`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from parrot.core.graph import ApplicationGraph, NewCall
from parrot.core.limits import Limits
from parrot.core.objectives import ObjectiveDeduction, deduce
from parrot.types.events import Failure, NewVariable
from parrot.types.ids import CallId, VariableId
from parrot.types.objective import CallObjective, Objective

STOP = Failure(code="cancelled", message="stop")
LATENCY, THROUGHPUT = "latency", "throughput"


class Application:
    """A graph, and a deduction that is told of everything that happens to it."""

    def __init__(self, default: Objective | None = None, deadline_at_s: float | None = None) -> None:
        self.graph = ApplicationGraph(Limits())
        self.deduction = ObjectiveDeduction(self.graph, default=default, deadline_at_s=deadline_at_s)

    def submit(self, *edges: str) -> None:
        """Add one batch of calls, drawn as `a b → c → d`; `x.` is a variable by itself, and `a → x.` names no
        call.
        """
        inputs: dict[str, list[str]] = {}
        for line in edges:
            steps = [step.split() for step in line.split("→")]
            for names in steps:
                for name in names:
                    if not name.endswith(".") and CallId(name) not in self.graph.calls:
                        inputs.setdefault(name, [])
            for before, after in pairwise(steps):
                for name in after:
                    inputs[name].extend(b if b.endswith(".") else f"{b}." for b in before)
        calls = [
            NewCall(
                call_id=CallId(name),
                name=name,
                inputs={f"i{i}": VariableId(v) for i, v in enumerate(dict.fromkeys(before))},
                outputs={"out": VariableId(f"{name}.")},
            )
            for name, before in inputs.items()
        ]
        used = dict.fromkeys(v for c in calls for v in (*c.inputs.values(), *c.outputs.values()))
        new = [v for v in used if v not in self.graph.variables]
        self.graph.add(calls, [NewVariable(variable_id=v, name=None) for v in new])
        self.deduction.added([call.call_id for call in calls])

    def get(self, call: str, objective: Objective) -> None:
        self.deduction.stated(VariableId(f"{call}."), objective)

    def finish(self, call: str) -> None:
        call_id = CallId(call)
        self.graph.start(call_id)
        self.graph.resolve(VariableId(f"{call}."), "text")
        self.deduction.resolved(VariableId(f"{call}."))
        self.graph.finish(call_id)
        self.deduction.ended(call_id)

    def cancel(self, call: str) -> None:
        spread = self.graph.fail_call(CallId(call), STOP, state="cancelled")
        for variable_id, _ in spread.variables:
            self.deduction.resolved(variable_id)
        for call_id in spread.calls:
            self.deduction.ended(call_id)

    def told(self) -> dict[str, str]:
        return written(self.deduction.objectives())

    def why(self, call: str) -> str:
        found = self.deduction.objective(CallId(call))
        assert found is not None
        return found.why


def written(objectives: Mapping[CallId, CallObjective]) -> dict[str, str]:
    """`latency`, or `latency in reduce/0` for a call in a task group."""
    return {
        str(call_id): o.objective + (f" in {o.task_group}" if o.task_group else "")
        for call_id, o in objectives.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A graph, how its results are wanted, and what follows."""

    name: str
    edges: tuple[str, ...]
    expected: Mapping[str, str]
    get: Mapping[str, Objective] = field(default_factory=dict)
    default: Objective | None = None


def each(names: str, what: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), what)


CASES = [
    # a ──▶ b ──▶ c ◀─ latency
    Case(
        name="chain",
        edges=("a → b → c",),
        get={"c": "latency"},
        expected=each("a b c", LATENCY),
    ),
    # m0 ─┐
    # m1 ─┼─▶ reduce ◀─ latency
    # m2 ─┘
    Case(
        name="map-reduce",
        edges=("m0 m1 m2 → reduce",),
        get={"reduce": "latency"},
        expected=each("m0 m1 m2", "latency in reduce/0") | each("reduce", LATENCY),
    ),
    # p0 ──▶ m0 ─┐
    # p1 ──▶ m1 ─┴─▶ reduce ◀─ latency
    Case(
        name="lanes before a join are groups stage by stage",
        edges=("p0 → m0 → reduce", "p1 → m1 → reduce"),
        get={"reduce": "latency"},
        expected=each("p0 p1", "latency in reduce/0")
        | each("m0 m1", "latency in reduce/1")
        | each("reduce", LATENCY),
    ),
    # l0 ─┐
    # l1 ─┴─▶ r0 ─┐
    # l2 ─┐       ├─▶ root ◀─ latency
    # l3 ─┴─▶ r1 ─┘
    Case(
        name="tree reduce",
        edges=("l0 l1 → r0", "l2 l3 → r1", "r0 r1 → root"),
        get={"root": "latency"},
        expected=each("l0 l1", "latency in r0/0")
        | each("l2 l3", "latency in r1/0")
        | each("r0 r1", "latency in root/1")
        | each("root", LATENCY),
    ),
    #        ┌─▶ left ──┐
    # top ───┤          ├─▶ bottom ◀─ latency
    #        └─▶ right ─┘
    Case(
        name="diamond: the top holds up everything by itself",
        edges=("top → left right → bottom",),
        get={"bottom": "latency"},
        expected=each("top bottom", LATENCY) | each("left right", "latency in bottom/1"),
    ),
    # plan ─┬─▶ code0 ─┬─▶ look0 ─┬─▶ fix0 ─┐
    #       └─▶ code1 ─┴─▶ look1 ─┴─▶ fix1 ─┴─▶ merge ◀─ latency
    Case(
        name="multi-agent rounds",
        edges=("plan → code0 code1 → look0 look1 → fix0 fix1 → merge",),
        get={"merge": "latency"},
        expected=each("plan merge", LATENCY)
        | each("code0 code1", "latency in look0/1")
        | each("look0 look1", "latency in fix0/2")
        | each("fix0 fix1", "latency in merge/3"),
    ),
    # m0 ─┐
    # m1 ─┴─▶ reduce ◀─ throughput
    Case(
        name="throughput marks everything above it",
        edges=("a → m0", "a → m1", "m0 m1 → reduce"),
        get={"reduce": "throughput"},
        expected=each("a reduce", THROUGHPUT) | each("m0 m1", "throughput in reduce/1"),
    ),
    # a ──▶ b ─┬─▶ c ◀─ latency
    #          └─▶ d ──▶ e ◀─ throughput
    Case(
        name="two gets with different objectives: the strictest wins",
        edges=("a → b → c", "b → d → e"),
        get={"c": "latency", "e": "throughput"},
        expected=each("a b c", LATENCY) | each("d e", THROUGHPUT),
    ),
    # m0 ─┐              m0 is shown to someone as well, so it is no part of the group
    # m1 ─┼─▶ reduce ◀─ latency
    # m2 ─┘
    Case(
        name="a call of a group that is waited for by itself leaves it",
        edges=("m0 m1 m2 → reduce",),
        get={"reduce": "latency", "m0": "latency"},
        expected=each("m0 reduce", LATENCY) | each("m1 m2", "latency in reduce/0"),
    ),
    # m0 ─┬─▶ reduce ◀─ throughput
    # m1 ─┘
    # m1 ───▶ say ◀─ latency
    Case(
        name="mixed: a latency path leads out of a throughput group",
        edges=("m0 m1 m2 → reduce", "m1 → say"),
        get={"reduce": "throughput", "say": "latency"},
        expected=each("m0 m2", "throughput in reduce/0")
        | each("reduce", THROUGHPUT)
        | each("m1 say", LATENCY),
    ),
    # a ─────────┐       a is at stage 0, c at stage 1: they do not run beside each other
    # b ──▶ c ───┴─▶ d
    Case(
        name="producers at different stages are no group",
        edges=("a → d", "b → c → d"),
        expected=each("a b c d", LATENCY),
    ),
    # m0 ─┐                 ┌─▶ r0
    # m1 ─┴─▶ both read by ─┴─▶ r1
    Case(
        name="calls that feed the same consumers are one group, named after the first",
        edges=("m0 m1 → r0 r1",),
        get={"r0": "throughput", "r1": "latency"},
        expected=each("m0 m1", "latency in r1/0") | each("r0", THROUGHPUT) | each("r1", LATENCY),
    ),
    # a          b ◀─ throughput          c
    Case(
        name="results of which nobody spoke are wanted with latency",
        edges=("a", "b", "c"),
        get={"b": "throughput"},
        expected=each("a c", LATENCY) | each("b", THROUGHPUT),
    ),
    # a ──▶ b          c ◀─ latency
    Case(
        name="or as the session says",
        edges=("a → b", "c"),
        get={"c": "latency"},
        default="throughput",
        expected=each("a b", THROUGHPUT) | each("c", LATENCY),
    ),
    # a ──▶ (native function in the client) ──▶ x ──▶ b ──▶ c ◀─ throughput
    Case(
        name="a native function is a gap",
        edges=("a", "x. → b → c"),
        get={"c": "throughput"},
        expected=each("a", LATENCY) | each("b c", THROUGHPUT),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_objectives_follow_from_the_graph(case: Case) -> None:
    application = Application(case.default)
    application.submit(*case.edges)
    for call, objective in case.get.items():
        application.get(call, objective)
    assert application.told() == case.expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_deduction_at_once_says_the_same(case: Case) -> None:
    application = Application(case.default)
    application.submit(*case.edges)
    stated = {VariableId(f"{call}."): objective for call, objective in case.get.items()}
    assert written(deduce(application.graph, stated, default=case.default)) == case.expected


def test_a_late_get_turns_throughput_work_into_a_latency_path() -> None:
    application = Application(default="throughput")
    application.submit("a b → c")
    assert application.told() == each("a b", "throughput in c/0") | each("c", THROUGHPUT)
    application.deduction.changes()
    application.get("c", "latency")
    assert set(application.deduction.changes()) == {"a", "b", "c"}
    assert application.told() == each("a b", "latency in c/0") | each("c", LATENCY)


def test_a_weaker_get_after_a_strict_one_changes_nothing() -> None:
    application = Application()
    application.submit("a → b")
    application.get("b", "latency")
    before = application.told()
    application.deduction.changes()
    application.get("b", "throughput")
    assert application.deduction.changes() == ()
    assert application.told() == before


def test_a_get_before_its_producer_is_submitted_counts() -> None:
    application = Application()
    application.submit("a. → b")
    application.get("a", "latency")
    application.get("b", "throughput")
    assert application.told() == {"b": THROUGHPUT}
    application.submit("a")
    assert application.told() == {"a": LATENCY, "b": THROUGHPUT}


def test_calls_that_come_later_draw_earlier_ones_into_their_paths() -> None:
    application = Application(default="throughput")
    application.submit("m0", "m1")
    assert application.told() == each("m0 m1", THROUGHPUT)
    application.submit("m0. m1. → reduce")
    application.get("reduce", "latency")
    assert application.told() == each("m0 m1", "latency in reduce/0") | each("reduce", LATENCY)


def test_a_producer_that_comes_after_its_consumer_moves_stages_and_groups() -> None:
    application = Application()
    application.submit("x. → m0 → reduce", "m1 → reduce", "m2 → reduce")
    assert application.told() == each("m0 m1 m2", "latency in reduce/0") | each("reduce", LATENCY)
    application.submit("x")
    assert application.told() == each("m1 m2", "latency in reduce/0") | each("x m0 reduce", LATENCY)
    found = application.deduction.objectives()
    assert {c: o.stage for c, o in found.items()} == {"m0": 1, "m1": 0, "m2": 0, "reduce": 2, "x": 0}


def test_a_new_consumer_that_needs_a_call_alone_takes_it_out_of_its_group() -> None:
    application = Application()
    application.submit("m0 m1 m2 → reduce")
    application.submit("m0. → show")
    assert application.told() == each("m1 m2", "latency in reduce/0") | each("m0 show reduce", LATENCY)


def test_cancelling_the_only_consumer_leaves_work_that_nobody_waits_for() -> None:
    application = Application()
    application.submit("m0 m1 → reduce")
    application.cancel("reduce")
    assert application.told() == each("m0 m1", THROUGHPUT)
    assert application.why("m0") == "nothing that is left waits for it"


def test_cancelling_a_branch_leaves_the_objective_of_the_other() -> None:
    application = Application()
    application.submit("a → b → c", "a → d")
    application.get("c", "latency")
    application.get("d", "throughput")
    assert application.told()["a"] == LATENCY
    application.cancel("b")
    assert application.told() == each("a d", THROUGHPUT)


def test_the_last_call_of_a_group_holds_up_the_join_by_itself() -> None:
    application = Application()
    application.submit("m0 m1 m2 → reduce")
    application.finish("m0")
    assert application.deduction.group("reduce/0") == ("m1", "m2")
    application.finish("m2")
    assert application.told() == each("m1 reduce", LATENCY)
    assert application.deduction.group("reduce/0") == ()
    assert application.why("m1") == "feeds reduce, which is latency-sensitive"


def test_a_call_that_has_nothing_left_to_produce_has_no_objective() -> None:
    application = Application()
    application.submit("a → b")
    application.graph.start(CallId("a"))
    application.graph.resolve(VariableId("a."), "text")
    application.deduction.resolved(VariableId("a."))
    assert application.deduction.objective(CallId("a")) is None
    application.graph.finish(CallId("a"))
    application.deduction.ended(CallId("a"))
    assert application.told() == {"b": LATENCY}


def test_a_call_of_a_latency_group_is_batched_for_throughput() -> None:
    application = Application()
    application.submit("m0 m1 → reduce")
    batched = {c: o.batched_for for c, o in application.deduction.objectives().items()}
    assert batched == {"m0": "throughput", "m1": "throughput", "reduce": "latency"}


def test_every_call_is_told_the_sessions_deadline_and_its_stage() -> None:
    application = Application(deadline_at_s=90.0)
    application.submit("a → b")
    found = application.deduction.objectives()
    assert {c: (o.deadline_at_s, o.stage) for c, o in found.items()} == {"a": (90.0, 0), "b": (90.0, 1)}


def reasons(application: Application, calls: Iterable[str]) -> list[str]:
    return [application.why(call) for call in calls]


def test_the_reasons_can_be_read() -> None:
    application = Application(default="throughput")
    application.submit("m0 m1 → reduce → say", "log", "bulk")
    application.get("say", "latency")
    application.get("bulk", "throughput")
    assert reasons(application, ["m0", "reduce", "say", "log", "bulk"]) == [
        "wanted together with others, by reduce, which is latency-sensitive",
        "feeds say, which is latency-sensitive",
        "someone waits for say.",
        "a final result, and the session's objective",
        "bulk. is wanted with throughput",
    ]


def test_changes_are_those_since_the_last_question() -> None:
    application = Application()
    application.submit("a → b")
    assert set(application.deduction.changes()) == {"a", "b"}
    application.deduction.objective(CallId("a"))
    application.submit("b. → c")
    application.deduction.objective(CallId("b"))
    assert set(application.deduction.changes()) == {"b", "c"}
    assert application.deduction.changes() == ()
