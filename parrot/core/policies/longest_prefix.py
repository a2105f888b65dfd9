"""Longest prefix first: a call goes where most of its prompt is computed already."""

from parrot.core.scheduler import EngineState, Placement, ReadyCall, Round, Schedule, Snapshot
from parrot.types.ids import CallId

OVERFULL = 2.0
"""An engine with this many times its batch is passed over while another has room: a long queue costs more
than a fill."""


def longest_prefix(snapshot: Snapshot) -> Schedule:
    """Place every call that has an engine, on the one that holds the longest prefix of it, else the least
    loaded.
    """
    running = Round(snapshot)
    placements: list[Placement] = []
    deferred: list[CallId] = []
    for call in snapshot.ready:
        engines = running.by_model.get(call.model)
        if not engines:
            deferred.append(call.call_id)
            continue
        placements.append(_place(running, call, engines))
    return Schedule(placements=tuple(placements), deferred=tuple(deferred))


def _place(running: Round, call: ReadyCall, engines: list[EngineState]) -> Placement:
    shared = running.shared_tokens(call)
    with_room = [e for e in engines if running.num_calls[e.engine_id] < OVERFULL * e.max_batch] or engines
    holders = [engine for engine in with_room if shared.get(engine.engine_id, 0) > 0]
    if not holders:
        return running.place(call, running.least_loaded(with_room), 0, "the engine with the fewest calls")
    longest = max(shared[engine.engine_id] for engine in holders)
    engine = running.least_loaded([engine for engine in holders if shared[engine.engine_id] == longest])
    return running.place(call, engine, longest, f"holds {longest} tokens of its prompt")
