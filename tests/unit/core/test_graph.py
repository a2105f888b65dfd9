"""The application graph: states, errors, order, and size."""

import time
from collections.abc import Mapping, Sequence

import pytest

from parrot.core.graph import Added, ApplicationGraph, NewCall, Spread
from parrot.core.limits import Limits
from parrot.errors import (
    ConflictError,
    GraphError,
    InvalidError,
    NotFoundError,
    OverLimitError,
    ParrotError,
    TooLargeError,
)
from parrot.types.events import Failure, NewVariable
from parrot.types.ids import CallId, VariableId

BOOM = Failure(code="engine_failed", message="boom")
STOP = Failure(code="cancelled", message="stop")

Spec = tuple[str, Sequence[str], Sequence[str]]


def a_graph(**limits: int) -> ApplicationGraph:
    return ApplicationGraph(Limits(**limits))


def add(graph: ApplicationGraph, *calls: Spec, values: Mapping[str, str] | None = None) -> Added:
    """Add calls given as (name, inputs, outputs); variables that are new come with them."""
    names = dict.fromkeys(v for _, inputs, outputs in calls for v in (*inputs, *outputs))
    return graph.add(
        [
            NewCall(
                call_id=CallId(name),
                name=name,
                inputs={f"{v}{i}": VariableId(v) for i, v in enumerate(inputs)},
                outputs={v: VariableId(v) for v in outputs},
            )
            for name, inputs, outputs in calls
        ],
        [
            NewVariable(variable_id=VariableId(v), name=f"name_{v}", value=(values or {}).get(v))
            for v in names
            if v not in graph.variables
        ],
    )


def states(graph: ApplicationGraph) -> dict[str, str]:
    return {call_id: call.state for call_id, call in graph.calls.items()}


def refused(graph: ApplicationGraph, *calls: Spec) -> ParrotError:
    """What adding raises; afterwards the graph is as it was (G7)."""
    before = (states(graph), list(graph.variables), dict(graph.counts), list(graph.edges()))
    with pytest.raises(ParrotError) as caught:
        add(graph, *calls)
    assert (states(graph), list(graph.variables), dict(graph.counts), list(graph.edges())) == before
    return caught.value


def test_a_chain_runs_from_producer_to_consumer() -> None:
    """G2: each call is ready when its last input is."""
    graph = a_graph()
    added = add(graph, ("a", [], ["x"]), ("b", ["x", "in"], ["y"]))
    assert added == Added(ready=(CallId("a"),), failed=Spread())
    graph.start(CallId("a"))
    assert graph.resolve(VariableId("x"), "text", token_ids=(1, 2), model_hash="m") == ()
    graph.finish(CallId("a"))
    assert graph.put(VariableId("in"), None, "value") == ("b",)
    assert states(graph) == {"a": "done", "b": "ready"}
    assert graph.variable("x").token_ids == (1, 2)
    assert list(graph.edges()) == [("a", "b", "x")]


def test_an_input_that_stands_twice_is_waited_for_once() -> None:
    graph = a_graph()
    add(graph, ("a", ["x", "x"], ["y"]))
    assert graph.calls[CallId("a")].num_missing == 1
    assert graph.put(VariableId("x"), None, "value") == ("a",)


def test_an_inline_value_is_ready_from_the_start() -> None:
    graph = a_graph()
    assert add(graph, ("a", ["x"], ["y"]), values={"x": "value"}).ready == ("a",)


def test_a_terminal_variable_never_changes() -> None:
    """G1: the second resolution of any kind is dropped."""
    graph = a_graph()
    add(graph, ("a", [], ["x", "y"]))
    assert graph.resolve(VariableId("x"), "first") == ()
    assert graph.resolve(VariableId("x"), "second") is None
    assert graph.fail(VariableId("x"), BOOM) == Spread()
    assert graph.fail(VariableId("y"), BOOM).variables == (("y", BOOM),)
    assert graph.resolve(VariableId("y"), "late") is None
    assert (graph.variable("x").value, graph.variable("y").failure) == ("first", BOOM)


def test_a_diamond_with_a_failed_branch_fails_its_join_once_with_the_root_cause() -> None:
    """G5: the sibling's result is kept, the join names the first failure."""
    graph = a_graph()
    add(graph, ("top", [], ["t"]), ("l", ["t"], ["x"]), ("r", ["t"], ["y"]), ("join", ["x", "y"], ["z"]))
    add(graph, ("after", ["z"], ["end"]))
    graph.resolve(VariableId("t"), "text")
    graph.resolve(VariableId("y"), "kept")
    spread = graph.fail_call(CallId("l"), BOOM)
    assert spread.calls == ("l", "join", "after")
    assert [variable for variable, _ in spread.variables] == ["x", "z", "end"]
    expected = {"root": "engine_failed", "root_variable": "name_x", "message": "boom"}
    assert [dict(failure.data) for _, failure in spread.variables] == [{}, expected, expected]
    assert [failure.code for _, failure in spread.variables] == ["engine_failed", *["upstream_failed"] * 2]
    assert graph.variable("y").value == "kept"


def test_a_spread_is_in_topological_order_whatever_way_it_was_found() -> None:
    graph = a_graph()
    add(graph, ("c", ["x", "y"], ["z"]), ("b", ["x"], ["y"]), ("a", [], ["x"]))
    assert graph.fail_call(CallId("a"), BOOM).calls == ("a", "b", "c")


def test_a_running_or_done_call_is_left_alone() -> None:
    """G9: the producer of a failed output may still be generating its other outputs."""
    graph = a_graph()
    add(graph, ("a", [], ["x", "y"]), ("b", ["x"], ["z"]))
    graph.start(CallId("a"))
    assert graph.fail(VariableId("x"), BOOM).calls == ("b",)
    graph.resolve(VariableId("y"), "text")
    graph.finish(CallId("a"))
    assert graph.fail_call(CallId("a"), BOOM) == Spread()
    assert states(graph) == {"a": "done", "b": "failed"}


def test_what_waits_for_something_cancelled_is_cancelled() -> None:
    graph = a_graph()
    add(graph, ("a", [], ["x"]), ("b", ["x"], ["y"]), ("c", ["y"], ["z"]))
    graph.fail_call(CallId("a"), STOP, state="cancelled")
    assert states(graph) == dict.fromkeys("abc", "cancelled")
    failure = graph.variable("z").failure
    assert failure is not None
    assert (failure.code, failure.data["root"]) == ("upstream_failed", "cancelled")


def test_a_call_on_a_failed_variable_is_accepted_and_fails_at_once() -> None:
    graph = a_graph()
    add(graph, ("a", [], ["x"]))
    graph.fail_call(CallId("a"), BOOM)
    added = add(graph, ("c", ["y"], ["z"]), ("b", ["x"], ["y"]), ("d", [], ["w"]))
    assert added.ready == ("d",)
    assert added.failed.calls == ("b", "c")
    assert {v: f.data["root"] for v, f in added.failed.variables} == {
        "y": "engine_failed",
        "z": "engine_failed",
    }


def test_a_call_that_runs_again_is_ready_again() -> None:
    graph = a_graph()
    add(graph, ("a", [], ["x"]))
    graph.start(CallId("a"))
    graph.requeue(CallId("a"))
    assert (states(graph), graph.counts["ready"], graph.counts["running"]) == ({"a": "ready"}, 1, 0)


def test_a_done_call_leaves_no_output_pending() -> None:
    """G10: finishing too early is our own bug, and is told."""
    graph = a_graph()
    add(graph, ("a", [], ["x"]))
    with pytest.raises(AssertionError, match="pending"):
        graph.finish(CallId("a"))
    assert states(graph) == {"a": "ready"}


def test_the_stage_is_right_when_producers_come_after_their_consumers() -> None:
    """G4: stages of everything downstream move up."""
    graph = a_graph()
    add(graph, ("c", ["y"], ["z"]))
    add(graph, ("d", ["z"], ["w"]))
    add(graph, ("b", ["x"], ["y"]))
    add(graph, ("a", [], ["x"]))
    assert {c: call.stage for c, call in graph.calls.items()} == {"a": 0, "b": 1, "c": 2, "d": 3}


def test_cycles_are_refused_and_named() -> None:
    graph = a_graph()
    own = refused(graph, ("a", ["x"], ["x"]))
    assert (own.code, own.param) == ("cycle", "calls[0]")
    pair = refused(
        graph, ("free", [], ["w"]), ("a", ["x"], ["y"]), ("b", ["y"], ["x"]), ("after", ["x"], ["v"])
    )
    assert isinstance(pair, GraphError)
    assert (pair.code, pair.param) == ("cycle", "calls[1]")
    assert "a → b → a" in pair.message or "b → a → b" in pair.message
    add(graph, ("a", ["x"], ["y"]))
    across = refused(graph, ("b", ["y"], ["x"]))
    assert (across.code, across.param) == ("cycle", "calls[0]")


def test_a_second_producer_is_refused() -> None:
    """G3: one producer, whether it stands in the same batch, came before, or is a client."""
    graph = a_graph()
    add(graph, ("a", [], ["x"]), ("b", ["in"], ["y"]))
    graph.put(VariableId("in"), None, "value")
    errors = [
        refused(graph, ("c", [], ["x"])),
        refused(graph, ("c", [], ["in"])),
        refused(graph, ("c", [], ["n"]), ("d", [], ["n"])),
    ]
    assert [type(error) for error in errors] == [ConflictError] * 3
    assert [(e.code, e.param) for e in errors] == [
        ("already_produced", "calls[0].parameters.x"),
        ("already_produced", "calls[0].parameters.in"),
        ("already_produced", "calls[1].parameters.n"),
    ]


def test_a_late_producer_takes_over_a_variable_that_is_waited_for() -> None:
    graph = a_graph()
    add(graph, ("b", ["x"], ["y"]))
    assert add(graph, ("a", [], ["x"])).ready == ("a",)
    assert graph.producer(VariableId("x")) is graph.calls[CallId("a")]
    assert graph.resolve(VariableId("x"), "text") == ("b",)


def test_setting_a_variable_follows_its_rules() -> None:
    graph = a_graph(max_value_bytes=8)
    add(graph, ("a", ["in"], ["out"]))
    assert graph.put(VariableId("new"), "fresh", "é") == ()
    assert graph.variable("fresh").value == "é"
    assert graph.put(VariableId("in"), None, "one") == ("a",)
    assert graph.put(VariableId("in"), None, "one") == ()
    with pytest.raises(ConflictError) as other:
        graph.put(VariableId("in"), None, "two")
    with pytest.raises(ConflictError) as produced:
        graph.put(VariableId("out"), None, "one")
    with pytest.raises(TooLargeError) as large:
        graph.put(VariableId("big"), None, "é" * 4 + "x")
    assert (other.value.code, produced.value.code) == ("already_set", "already_produced")
    assert large.value.data == {"limit_bytes": 8}
    graph.fail(graph.variable("out").variable_id, BOOM)
    assert "big" not in graph.variables


def test_a_failed_input_cannot_be_set_any_more() -> None:
    graph = a_graph()
    add(graph, ("a", ["in"], ["out"]))
    graph.fail(VariableId("in"), BOOM)
    with pytest.raises(ConflictError) as caught:
        graph.put(VariableId("in"), None, "late")
    assert caught.value.code == "already_set"


def test_limits_are_told_apart() -> None:
    graph = a_graph(
        max_batch_calls=3, max_session_calls=4, max_pending_calls=2, max_session_variables=6, max_fan_in=2
    )
    add(graph, ("a", [], ["x"]))
    fan_in = refused(graph, ("b", ["p", "q", "r"], ["s"]))
    pending = refused(graph, ("b", [], []), ("c", [], []))
    batch = refused(graph, *((name, [], []) for name in "bcde"))
    variables = refused(graph, ("b", ["p", "q"], ["r", "s", "t", "u"]))
    graph.fail_call(CallId("a"), BOOM)
    add(graph, ("b", [], []), ("c", [], []))
    calls = refused(graph, ("d", [], []), ("e", [], []))
    assert [e.code for e in (fan_in, pending, batch, variables, calls)] == [
        "fan_in", "over_limit", "too_many", "too_many", "too_many"
    ]  # fmt: skip
    assert isinstance(pending, OverLimitError)
    assert pending.data["retry_after_s"] == 1.0
    assert isinstance(calls, InvalidError)


def test_a_chain_may_be_as_long_as_the_limit_says() -> None:
    graph = a_graph(max_graph_depth=3)
    add(graph, ("b", ["x"], ["y"]), ("c", ["y"], ["z"]), ("a", [], ["x"]))
    assert refused(graph, ("d", ["z"], ["w"])).code == "too_deep_graph"


def test_a_branch_is_what_hangs_on_a_call_or_variable_and_has_not_ended() -> None:
    graph = a_graph()
    add(graph, ("d", ["y", "z"], ["w"]), ("b", ["x"], ["y"]), ("c", ["x"], ["z"]), ("a", ["in"], ["x"]))
    add(graph, ("other", ["z"], []))
    assert graph.branch([CallId("b")], []) == ("b", "d")
    assert graph.branch([], [VariableId("in")]) == ("a", "b", "c", "d", "other")
    assert graph.branch([], [VariableId("z")]) == ("c", "d", "other")
    graph.fail_call(CallId("b"), STOP, state="cancelled")
    assert graph.branch([CallId("b")], [VariableId("z")]) == ("c", "other")
    with pytest.raises(NotFoundError):
        graph.branch([CallId("nobody")], [])


def test_things_are_found_by_id_or_name_and_nothing_else() -> None:
    graph = a_graph()
    add(graph, ("a", [], ["x"]))
    assert graph.variable("x") is graph.variable("name_x") is graph.find_name("name_x")
    assert graph.call("a") is graph.calls[CallId("a")]
    for look in (graph.variable, graph.call):
        with pytest.raises(NotFoundError) as caught:
            look("../../x")
        assert caught.value.code == "not_found"


def test_a_chain_of_ten_thousand_calls_is_nothing_special() -> None:
    """G8, and nothing recurses: it is added, resolved, failed and cancelled in linear time."""
    begun = time.process_time()
    length = 10_000
    for ending in ("resolve", "fail", "branch"):
        graph = a_graph()
        for start in range(0, length, 2000):
            add(graph, *((f"c{i}", [f"v{i}"], [f"v{i + 1}"]) for i in range(start, start + 2000)))
        if ending == "resolve":
            for i in range(length):
                assert graph.resolve(VariableId(f"v{i}"), "text") == (f"c{i}",)
        elif ending == "fail":
            assert len(graph.fail(VariableId("v0"), BOOM).calls) == length
        else:
            assert graph.branch([CallId("c0")], [])[-1] == f"c{length - 1}"
        assert graph.calls[CallId(f"c{length - 1}")].stage == length - 1
    assert time.process_time() - begun < 20


def test_a_chain_added_backwards_in_one_batch_is_staged() -> None:
    graph = a_graph()
    add(graph, *((f"c{i}", [f"v{i}"], [f"v{i + 1}"]) for i in reversed(range(2000))))
    assert graph.calls[CallId("c1999")].stage == 1999
