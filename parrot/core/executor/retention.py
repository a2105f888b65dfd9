"""What cached contexts are worth, from what the graph says will be asked for next.

A call that waits, for inputs or for an engine, wants the prefixes of its prompt; also those that end with an
output which is still being made have a key already. A context is worth the tokens of the longest wanted
prefix it holds, less the further away the call is that wants it: what would be computed again soonest and at
most cost is evicted last. What nobody is known to want goes first, by recency. Nothing is pinned.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from parrot.core.executor.fleet import Fleet
from parrot.errors import EngineError
from parrot.types.ids import CallId, ContextId, EngineId, PrefixKey

logger = logging.getLogger(__name__)


class Retention:
    """Keeps engines informed. `run` works until it is cancelled."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._wants: dict[CallId, tuple[tuple[PrefixKey, ...], int]] = {}
        self._near: dict[PrefixKey, dict[int, int]] = {}
        """Key → how many calls want it, by how many stages they are away."""
        self._dirty: dict[PrefixKey, None] = {}
        self._told: dict[PrefixKey, int] = {}
        """Key → the least distance that engines were told of."""
        fleet.index.on_first = self._held_anew
        self._wake = asyncio.Event()
        self.num_faults = 0
        """Rounds of telling that failed by a fault of the service."""

    def want(self, call_id: CallId, keys: Sequence[PrefixKey], distance: int) -> None:
        """A call that is so many stages from running will need these prefixes; replaces what it wanted
        before.
        """
        before = self._wants.get(call_id)
        if before is not None:
            if before == (keys, distance):
                return
            self.unwant(call_id)
        self._wants[call_id] = (tuple(keys), distance)
        for key in keys:
            near = self._near.get(key)
            if near is None:
                near = self._near[key] = {}
            near[distance] = near.get(distance, 0) + 1
            self._look_again(key, near)

    def unwant(self, call_id: CallId) -> None:
        """A call has begun to run, or never will."""
        keys, distance = self._wants.pop(call_id, ((), 0))
        for key in keys:
            near = self._near[key]
            left = near[distance] = near[distance] - 1
            if not left:
                del near[distance]
                if not near:
                    del self._near[key]
            self._look_again(key, near)

    def worth(self, engine_id: EngineId, context_id: ContextId) -> int:
        """What a context is worth now: tokens, divided by one more than the stages until they are needed."""
        best = 0
        for key, num_tokens in self._fleet.index.held(engine_id, context_id):
            near = self._near.get(key)
            if near:
                best = max(best, num_tokens // (1 + min(near)))
        return best

    def is_wanted(self, key: PrefixKey) -> bool:
        """Whether a call that waits wants a prefix."""
        return key in self._near

    @property
    def num_wanted(self) -> int:
        """Prefixes that somebody wants."""
        return len(self._near)

    async def run(self) -> None:
        """Tell engines what has changed, many changes at a time."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                for engine_id, values in self._changes().items():
                    await self._tell(engine_id, values)
            except Exception:
                # What caches are worth is advice: without it, the service goes on.
                self.num_faults += 1
                logger.exception("telling what contexts are worth failed by a fault of the service")

    def _held_anew(self, key: PrefixKey) -> None:
        """A context that nobody was told of is the one that holds a key."""
        if key in self._near:
            self._told.pop(key, None)
            self._look_again(key, self._near[key])

    def _look_again(self, key: PrefixKey, near: Mapping[int, int]) -> None:
        """Those who want a key have changed: engines are told, unless they know it so."""
        if (min(near) if near else None) != self._told.get(key):
            self._dirty[key] = None
            if not self._wake.is_set():
                self._wake.set()

    def _changes(self) -> dict[EngineId, dict[ContextId, int]]:
        """What contexts are worth of whose prefixes the next use has moved.

        Of several that hold a prefix only the one that would be forked from counts. So a system prompt that a
        thousand cached contexts begin with, and that calls want all the time, costs nothing.
        """
        dirty, self._dirty = self._dirty, {}
        changes: dict[EngineId, dict[ContextId, int]] = {}
        for key in dirty:
            near = self._near.get(key)
            nearest = min(near) if near else None
            if nearest == self._told.get(key):
                continue
            self._told.pop(key, None)
            for engine_id, context_id in self._fleet.index.first_holders(key):
                changes.setdefault(engine_id, {})[context_id] = self.worth(engine_id, context_id)
                if nearest is not None:
                    self._told[key] = nearest
        return changes

    async def _tell(self, engine_id: EngineId, values: dict[ContextId, int]) -> None:
        member = self._fleet.members.get(engine_id)
        if member is None or member.engine is None:
            return
        try:
            await member.engine.appraise(values)
        except EngineError:
            # The engine is gone, and its contexts with it.
            return
