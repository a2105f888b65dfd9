"""A graph is shown in steps, between which the event loop does other work."""

from parrot.core.estimates import OutputLengths
from parrot.core.graph import ApplicationGraph, NewCall
from parrot.core.limits import Limits
from parrot.core.sessions import CallRecord, Session, analyse
from parrot.core.views import STEP_NODES, graph_by_steps, graph_view
from parrot.types.events import NewVariable
from parrot.types.ids import CallId, SessionId, TenantId, VariableId
from parrot.wire.requests import CallSpec

LIMITS = Limits(max_pending_calls=50_000)
SPEC = CallSpec.model_validate(
    {"template": "{{a}}{{b}}", "parameters": {"a": {"variable": "x"}, "b": {"output": {}}}}
)


def session_of(num_calls: int, *, deadline_s: float | None = None) -> Session:
    """One call that all others read."""
    session = Session(
        session_id=SessionId("ses_1"),
        tenant_id=TenantId("t"),
        name=None,
        objective=None,
        deadline_s=deadline_s,
        metadata={},
        created_at=0.0,
        graph=ApplicationGraph(LIMITS),
        touched_at=0.0,
    )
    for number in range(num_calls):
        call_id = CallId(f"call_{number}")
        session.records[call_id] = CallRecord(
            call_id=call_id, name=call_id, spec=SPEC, model="m", submitted_at=0.0
        )
    analyse(session, OutputLengths())
    add(session, range(num_calls))
    return session


def add(session: Session, numbers: range) -> None:
    calls = [
        NewCall(
            call_id=CallId(f"call_{number}"),
            name=f"call_{number}",
            inputs={"a": VariableId("v_0")} if number else {},
            outputs={"b": VariableId(f"v_{number}")},
        )
        for number in numbers
    ]
    for start in range(0, len(calls), 1000):
        batch = calls[start : start + 1000]
        session.graph.add(batch, [NewVariable(variable_id=c.outputs["b"], name=None) for c in batch])
    session.analysis.added(call.call_id for call in calls)


def test_a_large_graph_takes_as_many_steps_as_its_nodes_need() -> None:
    session = session_of(6000, deadline_s=60.0)
    session.analysis.changes()
    *steps, view = graph_by_steps(session, now_s=0.0)
    num_nodes = 6000 + 6000 + 5999
    assert len(steps) >= num_nodes // STEP_NODES
    assert view is not None
    assert (len(view.calls), len(view.variables), len(view.edges)) == (6000, 6000, 5999)
    assert all(call.slack_s is not None for call in view.calls)


def test_paths_are_settled_in_steps_to_what_they_are_at_once() -> None:
    by_steps, at_once = session_of(2000), session_of(2000)
    num_steps = 0
    while not by_steps.analysis.settle_paths(100):
        num_steps += 1
    assert num_steps >= 20
    for call_id in at_once.graph.calls:
        assert by_steps.analysis.path(call_id) == at_once.analysis.path(call_id)


def test_the_view_by_steps_is_the_view() -> None:
    session = session_of(700)
    *_, view = graph_by_steps(session, now_s=1.0)
    assert view == graph_view(session, now_s=1.0)


def test_calls_that_are_added_meanwhile_are_not_shown() -> None:
    session = session_of(600)
    steps = graph_by_steps(session, now_s=0.0)
    next(steps)
    for number in range(600, 700):
        call_id = CallId(f"call_{number}")
        session.records[call_id] = CallRecord(
            call_id=call_id, name=call_id, spec=SPEC, model="m", submitted_at=0.0
        )
    add(session, range(600, 700))
    *_, view = steps
    assert view is not None
    assert (len(view.calls), len(view.edges)) == (600, 599)
