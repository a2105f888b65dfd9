"""Policies that see single requests only: the base lines. Each admits in the order given, up to a bound."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from parrot.core.roster import EngineState, Standing
from parrot.core.scheduler import ReadyCall, Round, Schedule, Shared, Snapshot, least_loaded

Bound = Callable[[EngineState, Snapshot], int]
"""How many calls an engine may have at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """When a request goes where its prefix is, in the manner of today's cache-aware routers."""

    least_share: float = 0.0
    """It must be there of at least this share of the prompt."""
    most_ahead: float = math.inf
    """Requests that the engine may have more than the emptiest one …"""
    most_times: float = 1.0
    """… unless it has no more than so many times as many."""

    def allows(self, call: ReadyCall, shared: int, engine: EngineState, emptiest: EngineState) -> bool:
        """Whether an engine that has `shared` tokens of a prompt is to be preferred to the emptiest."""
        ahead = engine.num_calls - emptiest.num_calls > self.most_ahead
        overloaded = ahead and engine.num_calls > self.most_times * emptiest.num_calls
        return shared > 0 and shared >= self.least_share * call.num_prompt_tokens and not overloaded


ANY_PREFIX = Routing()
"""To the longest prefix, whatever waits there."""
BALANCED = Routing(least_share=0.3, most_ahead=16, most_times=1.5)
"""To the longest prefix of 30 per cent and more, unless the engines' loads have come apart. The routers of
vLLM and SGLang have these rules; by default they allow a lead of 64 requests, which is worse on every
workload of the fair set.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLevel:
    """Requests in order, each to the engine with the fewest, or, with `routing`, to the one that has its
    prefix.
    """

    bound: Bound
    routing: Routing | None = None
    hints: bool = False
    """What clients say that they wait for comes before what they say is throughput work."""

    def __call__(self, snapshot: Snapshot) -> Schedule:
        """One round."""
        going = Round(snapshot)
        full: set[str] = set()
        for call in sorted(snapshot.ready, key=_by_hint) if self.hints else snapshot.ready:
            if call.model not in full and not self._place(going, call, snapshot):
                full.add(call.model)
            if full.issuperset(going.models):
                break
        return going.schedule()

    def _place(self, going: Round, call: ReadyCall, snapshot: Snapshot) -> bool:
        """False when no engine of its model takes another call."""
        standing = going.standing(call.model)
        if standing is None:
            return False
        engines = standing.emptiest()
        emptiest = next(
            (engine for engine in engines if engine.num_calls < self.bound(engine, snapshot)), None
        )
        if emptiest is None:
            return False
        shared = going.shared_tokens(call)
        holder = self._holder(standing, call, shared, emptiest, snapshot)
        if holder is not None:
            longest = shared.get(holder.engine_id)
            going.place(call, holder, longest, f"holds {longest} tokens of its prompt")
            return True
        held = shared.get(emptiest.engine_id)
        going.place(call, emptiest, held, "the engine with the fewest calls")
        return True

    def _holder(
        self,
        standing: Standing,
        call: ReadyCall,
        shared: Shared,
        emptiest: EngineState,
        snapshot: Snapshot,
    ) -> EngineState | None:
        """Of the engines that hold a prefix for which it is worth going there, of those with the longest, the
        one with the fewest calls.
        """
        routing = self.routing
        if routing is None:
            return None

        def takes(engine: EngineState) -> bool:
            held = shared.get(engine.engine_id)
            has_place = engine.num_calls < self.bound(engine, snapshot)
            return has_place and routing.allows(call, held, engine, emptiest)

        holders = [engine for engine in standing.in_order(shared.listed) if takes(engine)]
        if holders:
            longest = max(shared.get(engine.engine_id) for engine in holders)
            return least_loaded(e for e in holders if shared.get(e.engine_id) == longest)
        if not shared.is_wide:
            return None
        wide = (engine for engine in standing.emptiest() if shared.get(engine.engine_id))
        return next(filter(takes, wide), None)


def _by_hint(call: ReadyCall) -> bool:
    return call.objective.objective == "throughput"


def without_bound(_: EngineState, __: Snapshot) -> int:
    """As many as come; the engine queues them."""
    return 1 << 62


def small_batch(engine: EngineState, snapshot: Snapshot) -> int:
    """As many as leave every step within the latency target: each request is treated as if someone waited for
    it.
    """
    return engine.pace.batch_within(snapshot.latency_target_s, engine.max_batch)


def full_batch(engine: EngineState, _: Snapshot) -> int:
    """As many as the engine can batch."""
    return engine.max_batch
