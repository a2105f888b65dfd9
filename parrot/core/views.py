"""Answers drawn from sessions and engines. Reading only."""

from collections.abc import Container, Iterable, Iterator

from parrot.core.analysis.history import determining_chain
from parrot.core.executor.fleet import Member
from parrot.core.graph import Call, CallState
from parrot.core.sessions import CallRecord, Session
from parrot.core.variables import Variable
from parrot.types.ids import CallId
from parrot.types.objective import Objective
from parrot.wire.answers import (
    CallCounts,
    CallNode,
    Edge,
    EngineView,
    GraphView,
    SessionView,
    Times,
    Tokens,
    VariableNode,
    VariableView,
)
from parrot.wire.errors import failure_body

DEFAULT_OBJECTIVE: Objective = "latency"
STEP_NODES = 256
"""Nodes of a graph that are shown at a time."""


def session_view(session: Session) -> SessionView:
    """One session with its counts."""
    return SessionView(
        session_id=session.session_id,
        name=session.name,
        state="closed" if session.closing else "open",
        objective=session.objective,
        deadline_s=session.deadline_s,
        metadata=dict(session.metadata),
        created_at=session.created_at,
        calls=CallCounts.model_validate(_call_counts(session)),
        num_variables=len(session.graph.variables),
    )


def variable_view(session: Session, variable: Variable) -> VariableView:
    """One variable as readers may see it: pending until its resolution is committed."""
    state = "pending" if variable.variable_id in session.uncommitted else variable.state
    return VariableView(
        variable_id=variable.variable_id,
        name=variable.name,
        state=state,
        value=variable.value if state == "ready" else None,
        error=failure_body(variable.failure) if state == "failed" and variable.failure else None,
    )


def graph_view(session: Session, *, now_s: float) -> GraphView:
    """The whole application graph with everything known of its calls; `now_s` by the wall clock."""
    *_, view = graph_by_steps(session, now_s=now_s)
    assert view is not None, "the last step gives it"
    return view


def graph_by_steps(session: Session, *, now_s: float) -> Iterator[GraphView | None]:
    """As `graph_view`, in steps of about `STEP_NODES` nodes each, the last of which gives the view.

    Others may work between steps: what they change is seen or not, calls that they add are not.
    """
    graph, analysis = session.graph, session.analysis
    found_calls, found_variables = tuple(graph.calls.values()), tuple(graph.variables.values())
    while not analysis.settle_paths(STEP_NODES):
        yield None
    critical_path = _critical_path(session)
    critical, known = set(critical_path), {call.call_id for call in found_calls}
    calls: list[CallNode] = []
    for call in found_calls:
        if len(calls) % STEP_NODES == 0:
            yield None
        slack_s = analysis.slack_s(call.call_id, now_s=now_s)
        record, is_critical = session.records[call.call_id], call.call_id in critical
        calls.append(_call_node(session, call, record, critical=is_critical, slack_s=slack_s))
    variables: list[VariableNode] = []
    for variable in found_variables:
        if len(variables) % STEP_NODES == 0:
            yield None
        variables.append(_variable_node(session, variable))
    edges: list[Edge] = []
    for edge in _edges(found_variables, known):
        if len(edges) % STEP_NODES == 0:
            yield None
        edges.append(edge)
    yield GraphView(
        session_id=session.session_id,
        calls=tuple(calls),
        variables=tuple(variables),
        edges=tuple(edges),
        critical_path=critical_path,
        deadline_s=session.deadline_s,
    )


def engine_view(member: Member) -> EngineView | None:
    """One engine and its load; None while it has not come up for the first time."""
    info, load = member.info, member.load
    if info is None:
        return None
    return EngineView(
        engine_id=member.engine_id,
        kind=info.kind,
        model=info.model,
        state=member.status,
        device=info.device,
        dtype=info.dtype,
        num_parameters=info.num_parameters,
        context_tokens=info.context_tokens,
        block_tokens=info.block_tokens,
        num_blocks=info.num_blocks,
        kv_capacity_tokens=info.num_blocks * info.block_tokens,
        num_running=load.num_running,
        num_waiting=load.num_waiting,
        num_owned_blocks=load.num_owned_blocks,
        num_cached_blocks=load.num_cached_blocks,
        num_free_blocks=load.num_free_blocks,
        num_prefilled_tokens=load.num_prefilled_tokens,
        num_decoded_tokens=load.num_decoded_tokens,
        num_preemptions=load.num_preemptions,
        num_evictions=load.num_evictions,
        num_restarts=max(0, member.num_starts - 1),
        description=info.description,
    )


def _edges(variables: Iterable[Variable], known: Container[CallId]) -> Iterator[Edge]:
    """Every flow of a variable between known calls."""
    for variable in variables:
        source = variable.producer
        if source is not None and source in known:
            for target in tuple(variable.consumers):
                if target in known:
                    yield Edge(source=source, target=target, variable_id=variable.variable_id)


def _critical_path(session: Session) -> tuple[CallId, ...]:
    """What is behind the call that ended last; while calls are open, what is behind and before the one that
    the most work waits for.
    """
    records = session.records
    ran = {
        call_id: record.done_at
        for call_id, record in records.items()
        if record.placed_at is not None and record.done_at is not None
    }
    ahead = session.analysis.critical_path()
    last = ahead[0] if ahead else max(ran, key=ran.__getitem__, default=None)
    if last is None:
        return ()
    submitted = {call_id: record.submitted_at for call_id, record in records.items()}
    return determining_chain(session.graph, last, ended_at=ran, submitted_at=submitted) + ahead[1:]


def _call_state(session: Session, call: Call) -> CallState:
    """A call's state as readers may see it: it has not ended until that is committed."""
    if call.ended and any(variable_id in session.uncommitted for variable_id in call.outputs.values()):
        return "waiting" if session.records[call.call_id].placed_at is None else "running"
    return call.state


def _call_counts(session: Session) -> dict[CallState, int]:
    counts = dict(session.graph.counts)
    producers = {session.graph.variables[variable_id].producer for variable_id in session.uncommitted}
    for call_id in producers:
        if call_id is not None:
            call = session.graph.calls[call_id]
            counts[call.state] -= 1
            counts[_call_state(session, call)] += 1
    return counts


def _call_node(
    session: Session, call: Call, record: CallRecord, *, critical: bool, slack_s: float | None
) -> CallNode:
    objective = session.analysis.objective(call.call_id) or record.objective
    why_objective = objective.why if objective else ""
    return CallNode(
        call_id=call.call_id,
        name=call.name,
        model=record.model,
        state=_call_state(session, call),
        stage=call.stage,
        objective=objective.objective if objective else session.objective or DEFAULT_OBJECTIVE,
        task_group=objective.task_group if objective else None,
        why="; ".join(reason for reason in (why_objective, record.why) if reason),
        engine_id=record.engine_id,
        attempt=record.attempt,
        times=_times(session, record),
        tokens=Tokens(
            prompt=record.num_prompt_tokens,
            shared=record.num_shared_tokens,
            ahead=record.num_ahead_tokens,
            output=record.num_output_tokens,
        ),
        inputs=dict(call.inputs),
        outputs=dict(call.outputs),
        error=failure_body(record.failure) if record.failure else None,
        why_objective=why_objective,
        why_engine=record.why,
        critical=critical,
        slack_s=None if slack_s is None else round(slack_s, 6),
    )


def _times(session: Session, record: CallRecord) -> Times:
    def since(at: float | None) -> float | None:
        return None if at is None else round(at - session.created_at, 6)

    filled = record.filled_ahead
    return Times(
        submitted_s=round(record.submitted_at - session.created_at, 6),
        ahead_began_s=since(filled.began_at if filled else None),
        ahead_ended_s=since(filled.ended_at if filled else None),
        ready_s=since(record.ready_at),
        placed_s=since(record.placed_at),
        first_token_s=since(record.first_token_at),
        done_s=since(record.done_at),
    )


def _variable_node(session: Session, variable: Variable) -> VariableNode:
    pending = variable.variable_id in session.uncommitted
    return VariableNode(
        variable_id=variable.variable_id,
        name=variable.name,
        state="pending" if pending else variable.state,
        producer=variable.producer,
        consumers=tuple(variable.consumers),
        num_chars=None if pending or variable.value is None else len(variable.value),
    )
