"""The engines that are up, kept in the orders in which scheduling rounds look for them.

A round must not cost more for a thousand engines than for four. So what it looks for is kept sorted between
rounds, and a change of one engine costs a logarithm (and the moving of a few kilobytes).
"""

import math
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from parrot.core.cost_model import EnginePace
from parrot.types.ids import EngineId

TYPICAL_TOKENS = 128
"""Output tokens of a call that stands for any call, when engines are put in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """An engine that is up."""

    engine_id: EngineId
    model: str
    max_batch: int
    num_calls: int = 0
    """Calls placed on it that have not ended."""
    num_latency_calls: int = 0
    """Of these, the ones that want small batches."""
    num_tokens: int = 0
    """Tokens that its calls will hold at most, each shared prefix counted once."""
    num_unfilled_tokens: int = 0
    """Prompt tokens of its calls that are still to be computed, about."""
    capacity_tokens: int = 1 << 62
    pace: EnginePace = field(default_factory=EnginePace)


class _Keys(NamedTuple):
    """Where an engine stands in each order."""

    wait_s: float
    free_tokens: float
    num_calls: int
    has_room: bool


class Standing:
    """The engines of one model, in order: those that have room by when they get to new work and by free
    memory, all of them by their calls. Of equals the first comes first.
    """

    def __init__(self) -> None:
        self._numbers: dict[EngineId, int] = {}
        self._ids: dict[int, EngineId] = {}
        self._keys: dict[EngineId, _Keys] = {}
        self._soonest: list[tuple[float, int]] = []
        self._roomiest: list[tuple[float, int]] = []
        self._emptiest: list[tuple[int, int]] = []

    def copy(self) -> "Standing":
        """The same, to be changed apart."""
        other = Standing()
        # An engine's number never changes, so these are shared.
        other._numbers, other._ids = self._numbers, self._ids
        other._keys = self._keys.copy()
        other._soonest = self._soonest.copy()
        other._roomiest = self._roomiest.copy()
        other._emptiest = self._emptiest.copy()
        return other

    def __contains__(self, engine_id: object) -> bool:
        return engine_id in self._keys

    def enter(self, engine_id: EngineId, number: int) -> None:
        """Give an engine its place among equals, before it is put for the first time."""
        self._numbers[engine_id] = number
        self._ids[number] = engine_id

    def put(self, state: EngineState, *, num_calls: int, num_tokens: int, num_unfilled_tokens: int) -> None:
        """An engine has so many calls and tokens now."""
        engine_id, pace = state.engine_id, state.pace
        self.remove(engine_id)
        number = self._numbers[engine_id]
        free_tokens = math.inf if num_calls == 0 else float(state.capacity_tokens - num_tokens)
        wait_s = pace.fill_s(num_unfilled_tokens) + TYPICAL_TOKENS * pace.step_s(num_calls + 1)
        has_room = num_calls < state.max_batch
        self._keys[engine_id] = _Keys(wait_s, free_tokens, num_calls, has_room)
        insort(self._emptiest, (num_calls, number))
        if has_room:
            insort(self._soonest, (wait_s, number))
            insort(self._roomiest, (free_tokens, number))

    def remove(self, engine_id: EngineId) -> None:
        """An engine takes nothing any more. Nothing happens when it did not."""
        keys = self._keys.pop(engine_id, None)
        if keys is None:
            return
        number = self._numbers[engine_id]
        del self._emptiest[bisect_left(self._emptiest, (keys.num_calls, number))]
        if keys.has_room:
            del self._soonest[bisect_left(self._soonest, (keys.wait_s, number))]
            del self._roomiest[bisect_left(self._roomiest, (keys.free_tokens, number))]

    def soonest(self) -> Iterator[EngineId]:
        """Those that have room, from the one that gets to new work soonest on."""
        return (self._ids[number] for _, number in self._soonest)

    def emptiest(self) -> Iterator[EngineId]:
        """All of them, from the one with the fewest calls on."""
        return (self._ids[number] for _, number in self._emptiest)

    def in_order(self, engine_ids: Iterable[EngineId]) -> list[EngineId]:
        """Those of some engines that are among these, each at its place among equals."""
        return sorted(filter(self._keys.__contains__, engine_ids), key=self._numbers.__getitem__)

    def has_room(self, engine_id: EngineId) -> bool:
        """Whether an engine can take a call, memory aside."""
        keys = self._keys.get(engine_id)
        return keys is not None and keys.has_room

    @property
    def most_free_tokens(self) -> float:
        """Memory of the engine that has most, of those that have room; one without calls has all there is."""
        return self._roomiest[-1][0] if self._roomiest else -math.inf


class Roster(Collection[EngineState]):
    """The engines that are up."""

    def __init__(self, engines: Iterable[EngineState] = ()) -> None:
        self._states: dict[EngineId, EngineState] = {}
        self._standing: dict[str, Standing] = {}
        self.num_places = 0
        """Calls that all engines together could take, memory aside."""
        for number, engine in enumerate(engines):
            self.put(engine, number)

    def __iter__(self) -> Iterator[EngineState]:
        return iter(self._states.values())

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, engine: object) -> bool:
        return engine in self._states.values()

    def __getitem__(self, engine_id: EngineId) -> EngineState:
        return self._states[engine_id]

    @property
    def models(self) -> Collection[str]:
        """What they serve."""
        return self._standing.keys()

    def standing(self, model: str) -> Standing | None:
        """The engines of a model, to be read, or copied; None when there are none."""
        return self._standing.get(model)

    def put(self, state: EngineState, number: int) -> None:
        """An engine has come up, or has changed; `number` is its place among equals, always the same."""
        self.drop(state.engine_id)
        self._states[state.engine_id] = state
        self.num_places += _places(state)
        standing = self._standing.get(state.model)
        if standing is None:
            standing = self._standing[state.model] = Standing()
        standing.enter(state.engine_id, number)
        standing.put(
            state,
            num_calls=state.num_calls,
            num_tokens=state.num_tokens,
            num_unfilled_tokens=state.num_unfilled_tokens,
        )

    def drop(self, engine_id: EngineId) -> None:
        """An engine is up no longer. Nothing happens when it was not."""
        state = self._states.pop(engine_id, None)
        if state is not None:
            self.num_places -= _places(state)
            self._standing[state.model].remove(engine_id)


def _places(state: EngineState) -> int:
    return max(0, state.max_batch - state.num_calls)
