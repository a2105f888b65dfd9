"""The chain of calls that determined when another ended, from recorded times."""

from collections.abc import Mapping, Sequence

from parrot.core.analysis.history import determining_chain
from parrot.core.graph import ApplicationGraph, NewCall
from parrot.core.limits import Limits
from parrot.types.events import NewVariable
from parrot.types.ids import CallId, VariableId


def chain(
    calls: Mapping[str, Sequence[str]],
    last: str,
    ended: Mapping[str, float],
    submitted: Mapping[str, float] | None = None,
) -> list[str]:
    """Calls and the calls that they read; each is submitted at 0 unless said otherwise."""
    graph = ApplicationGraph(Limits())
    graph.add(
        [
            NewCall(
                call_id=CallId(name),
                name=name,
                inputs={f"in_{read}": VariableId(f"v_{read}") for read in reads},
                outputs={"out": VariableId(f"v_{name}")},
            )
            for name, reads in calls.items()
        ],
        [NewVariable(variable_id=VariableId(f"v_{name}"), name=None) for name in calls],
    )
    return list(
        determining_chain(
            graph,
            CallId(last),
            ended_at={CallId(name): at_s for name, at_s in ended.items()},
            submitted_at={CallId(name): (submitted or {}).get(name, 0.0) for name in calls},
        )
    )


MAP_REDUCE = {"a": [], "b": [], "r": ["a", "b"], "z": ["r"]}
"""  a ─┐
        ├─▶ r ─▶ z
     b ─┘
"""


def test_before_each_call_stands_the_producer_that_ended_last() -> None:
    assert chain(MAP_REDUCE, "z", {"a": 3.0, "b": 2.0, "r": 4.0, "z": 5.0}) == ["a", "r", "z"]
    assert chain(MAP_REDUCE, "z", {"a": 2.0, "b": 3.0, "r": 4.0, "z": 5.0}) == ["b", "r", "z"]


def test_a_call_without_producers_is_its_own_chain() -> None:
    assert chain(MAP_REDUCE, "a", {"a": 1.0}) == ["a"]


def test_a_call_that_runs_still_has_a_chain_behind_it() -> None:
    assert chain(MAP_REDUCE, "r", {"a": 1.0, "b": 2.0}) == ["b", "r"]


def test_what_has_not_ended_is_not_what_a_call_waited_for() -> None:
    assert chain(MAP_REDUCE, "r", {"a": 1.0}) == ["a", "r"]


def test_a_call_that_came_after_its_producers_waited_for_its_client() -> None:
    ended = {"a": 1.0, "b": 2.0, "r": 9.0, "z": 10.0}
    assert chain(MAP_REDUCE, "z", ended, submitted={"r": 5.0, "z": 5.0}) == ["r", "z"]
