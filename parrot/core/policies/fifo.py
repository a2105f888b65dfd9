"""First in, first out: calls in order of arrival, each to the engine with the fewest calls."""

from parrot.core.scheduler import Placement, Round, Schedule, Snapshot
from parrot.types.ids import CallId


def fifo(snapshot: Snapshot) -> Schedule:
    """Place every call that has an engine. Prefixes are shared where calls happen to meet."""
    running = Round(snapshot)
    placements: list[Placement] = []
    deferred: list[CallId] = []
    for call in snapshot.ready:
        engines = running.by_model.get(call.model)
        if not engines:
            deferred.append(call.call_id)
            continue
        engine = running.least_loaded(engines)
        shared = running.shared_tokens(call).get(engine.engine_id, 0)
        placements.append(running.place(call, engine, shared, "the engine with the fewest calls"))
    return Schedule(placements=tuple(placements), deferred=tuple(deferred))
