"""What can be seen of calls that still wait for inputs: what to keep for them, and what to fill for them."""

from collections.abc import Collection, Iterable
from functools import partial

from parrot.core.executor.runtime import Runtime
from parrot.core.prompts import expected_keys
from parrot.core.sessions import CallRecord, Session
from parrot.core.variables import Variable
from parrot.types.ids import CallId, VariableId

_RUNNING = frozenset({"running"})
_NEAR = frozenset({"ready", "running"})


def look_ahead(runtime: Runtime, session: Session, call_ids: Iterable[CallId]) -> None:
    """Have what is certain of the prompts of waiting calls kept where it is, and filled if there is room.

    What comes soon is filled, not what is stages away: it would take the place of what is needed before.
    """
    for call_id in call_ids:
        if session.graph.calls[call_id].state == "waiting":
            _want(runtime, session, session.records[call_id])
            if _is_being_made(session, call_id, _RUNNING):
                runtime.ahead.consider(session, session.records[call_id])


def look_ahead_of(runtime: Runtime, session: Session, call_id: CallId) -> None:
    """A call begins to run: do as `look_ahead` for the calls that wait for it alone; they are next, and it is
    known where.
    """
    graph = session.graph
    for variable_id in graph.calls[call_id].outputs.values():
        for consumer in graph.variables[variable_id].consumers:
            call = graph.calls[consumer]
            if call.state == "waiting" and call.num_missing == 1:
                _want(runtime, session, session.records[consumer])
                runtime.ahead.consider(session, session.records[consumer])


def look_ahead_from(runtime: Runtime, session: Session, variable: Variable) -> None:
    """A variable became ready: do as `look_ahead` for the calls that wait for more, where that may change
    something.

    Of a call with very many inputs most change nothing. What stands before the first that is missing grows
    when that one comes; how far the call is from running is seen each time when half of them are left.
    """
    for call_id in variable.consumers:
        record, call = session.records[call_id], session.graph.calls[call_id]
        if call.state != "waiting":
            continue
        at_turn = _is_power_of_two(call.num_missing)
        if at_turn:
            _want(runtime, session, record)
        more = at_turn or record.leading is None or record.leading.missing == variable.variable_id
        if more and _is_being_made(session, call_id, _NEAR):
            runtime.ahead.consider(session, record)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _want(runtime: Runtime, session: Session, record: CallRecord) -> None:
    model = runtime.fleet.models.get(record.model)
    if model is None or record.program is None or not runtime.config.has("retention"):
        return
    keys = expected_keys(
        record.program,
        model,
        session.graph.variables.__getitem__,
        partial(_will_be_generated, session),
        tenant_id=session.tenant_id,
        salt=runtime.config.salt,
        so_far=record.leading,
    )
    runtime.retention.want(record.call_id, keys, _distance(session, record.call_id))


def _will_be_generated(session: Session, variable_id: VariableId) -> bool:
    """Whether a pending variable's value will be what a call generates, with no transform in between."""
    producer = session.graph.variables[variable_id].producer
    program = session.records[producer].program if producer is not None else None
    outputs = program.outputs() if program is not None else ()
    return any(output.variable_id == variable_id and not output.transforms for output in outputs)


def _distance(session: Session, call_id: CallId) -> int:
    """How far a waiting call is from running: 1 when all it waits for is being made, else 2."""
    return 1 if _are_producers_in(session, call_id, _NEAR, or_client=False) else 2


def _is_being_made(session: Session, call_id: CallId, states: Collection[str]) -> bool:
    """Whether everything that a waiting call waits for is a client's to set, or made by a call in one of
    these states.
    """
    return _are_producers_in(session, call_id, states, or_client=True)


def _are_producers_in(session: Session, call_id: CallId, states: Collection[str], *, or_client: bool) -> bool:
    """Whether all that a waiting call waits for is made by calls in one of `states`, or, if `or_client`, set
    by a client.
    """
    calls, variables = session.graph.calls, session.graph.variables
    for variable_id in calls[call_id].inputs.values():
        variable = variables[variable_id]
        if variable.state == "pending":
            producer = variable.producer
            if not (or_client if producer is None else calls[producer].state in states):
                return False
    return True
