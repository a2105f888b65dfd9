"""A session rebuilt from its log, as it stood when the last event was committed."""

import sys
from collections.abc import Sequence

from parrot.core.graph import ApplicationGraph, NewCall
from parrot.core.limits import Limits
from parrot.core.sessions import CallRecord, OutputRecord, Session
from parrot.errors import StoreError
from parrot.ports.store import Appended
from parrot.types.events import (
    CallFinished,
    CallPlaced,
    CallRetried,
    CallsSubmitted,
    CallStarted,
    Event,
    Failure,
    FunctionRegistered,
    FunctionRemoved,
    ObjectiveStated,
    SessionClosed,
    SessionOpened,
    VariableFailed,
    VariableReady,
    VariableSet,
)
from parrot.types.ids import CallId
from parrot.types.objective import CallObjective
from parrot.wire.requests import CallSpec

_WITHOUT_LIMITS = Limits(
    max_value_bytes=sys.maxsize,
    max_batch_calls=sys.maxsize,
    max_session_calls=sys.maxsize,
    max_pending_calls=sys.maxsize,
    max_session_variables=sys.maxsize,
    max_graph_depth=sys.maxsize,
    max_fan_in=sys.maxsize,
)
"""What was accepted once is taken again, whatever the limits are now."""


def new_session(event: SessionOpened, limits: Limits) -> Session:
    """The session that an opening event describes."""
    return Session(
        session_id=event.session_id,
        tenant_id=event.tenant_id,
        name=event.name,
        objective=event.objective,
        deadline_s=event.deadline_s,
        metadata=event.metadata,
        created_at=event.wall_s,
        touched_at=event.wall_s,
        opaque=event.opaque,
        graph=ApplicationGraph(limits),
    )


def record_calls(session: Session, event: CallsSubmitted, specs: Sequence[CallSpec]) -> None:
    """Note the calls of a submission; `specs` are their specifications in the same order."""
    for call, spec in zip(event.calls, specs, strict=True):
        session.records[call.call_id] = CallRecord(
            call_id=call.call_id,
            name=call.name,
            spec=spec,
            model=spec.model or "",
            submitted_at=event.wall_s,
        )


def new_calls(event: CallsSubmitted) -> tuple[NewCall, ...]:
    """The submission's calls, as the graph takes them."""
    return tuple(
        NewCall(call_id=call.call_id, name=call.name, inputs=call.inputs, outputs=call.outputs)
        for call in event.calls
    )


def rebuild(log: Sequence[Appended], limits: Limits) -> tuple[Session, tuple[CallId, ...]]:
    """Replay a session's log.

    Returns:
        the session, and its calls that are to be run: all inputs are there and they had not ended. A call
        that was running is among them; outputs it had already produced are kept, and its attempts go on
        counting.

    Raises:
        StoreError: `store_corrupt` when the log does not begin with the session's opening.
    """
    first = log[0].event if log else None
    if not isinstance(first, SessionOpened):
        raise StoreError("a session's log does not begin with its opening", code="store_corrupt")
    session = new_session(first, _WITHOUT_LIMITS)
    session.recovered = True
    for appended in log[1:]:
        _replay(session, appended.event)
    session.graph.set_limits(limits)
    for call in session.graph.calls.values():
        if call.state == "running":
            session.graph.requeue(call.call_id)
    ready = tuple(call.call_id for call in session.graph.calls.values() if call.state == "ready")
    for call in session.graph.calls.values():
        if not call.ended:
            # An attempt may have begun that the store did not learn of, also of a call whose inputs were not
            # stored yet. Its number must not come again: positions in its stream are still about.
            session.records[call.call_id].attempt += 1
    return session, ready


def _replay(session: Session, event: Event) -> None:
    graph = session.graph
    match event:
        case CallsSubmitted():
            record_calls(session, event, [CallSpec.model_validate_json(call.spec) for call in event.calls])
            graph.add(new_calls(event), event.variables)
            session.touched_at = event.wall_s
        case VariableSet():
            graph.put(event.variable_id, event.name, event.value)
        case ObjectiveStated():
            graph.variables[event.variable_id].objective = event.objective
        case VariableReady():
            graph.resolve(event.variable_id, event.value)
            session.attempts[event.variable_id] = event.attempt
            session.records[event.call_id].outputs[event.variable_id] = OutputRecord(
                num_tokens=event.num_tokens, finish_reason=event.finish_reason
            )
            if event.raw is not None:
                session.raw_texts[event.variable_id] = event.raw
        case VariableFailed():
            graph.fail(event.variable_id, event.failure)
        case CallPlaced() | CallRetried() | CallFinished():
            _replay_call(session, event)
        case SessionOpened() | SessionClosed() | CallStarted() | FunctionRegistered() | FunctionRemoved():
            # The opening was replayed first; closed sessions are not rebuilt; first tokens are not durable;
            # functions have a log of their own.
            return


def _replay_call(session: Session, event: CallPlaced | CallRetried | CallFinished) -> None:
    graph = session.graph
    record = session.records[event.call_id]
    match event:
        case CallPlaced():
            if graph.calls[event.call_id].state == "ready":
                graph.start(event.call_id)
            record.attempt, record.engine_id, record.why = event.attempt, event.engine_id, event.why
            record.placed_at, record.ready_at = event.wall_s, event.ready_wall_s
            if event.objective is not None:
                record.objective = CallObjective(
                    objective=event.objective, task_group=event.task_group, why=event.why_objective
                )
        case CallRetried():
            outside = event.failure.data.get("outside") is True and not event.crashed_engine
            record.num_uncharged += outside
            record.num_failures += event.failure.data.get("delivered", True) is True and not outside
            record.num_crashes += event.crashed_engine
            graph.requeue(event.call_id)
        case CallFinished():
            record.done_at, record.failure = event.wall_s, event.failure
            record.num_prompt_tokens = event.num_prompt_tokens
            record.num_shared_tokens = event.num_shared_tokens
            record.num_output_tokens = event.num_output_tokens
            record.num_ahead_tokens = event.num_ahead_tokens
            record.first_token_at = event.first_token_wall_s
            if graph.calls[event.call_id].ended:
                return
            if event.outcome == "done":
                graph.finish(event.call_id)
            else:
                failure = event.failure or Failure(code="call_failed", message="the call failed")
                graph.fail_call(
                    event.call_id, failure, state="cancelled" if event.outcome == "cancelled" else "failed"
                )
