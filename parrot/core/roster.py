"""The engines that are up, kept in the orders in which scheduling rounds look for them.

A round must not cost more for a thousand engines than for four. So what it looks for is kept sorted between
rounds, and a change of one engine costs a logarithm (and the moving of a few kilobytes).
"""

import math
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator

import msgspec

from parrot.core.cost_model import EnginePace
from parrot.types.ids import EngineId

TYPICAL_TOKENS = 128
"""Output tokens of a call that stands for any call, when engines are put in order."""
LATENCY_TARGET_S = 0.1
"""A step with a call in it that wants a small batch should not take longer, unless something else is said."""
_UNMEASURED = EnginePace()


class EngineState(msgspec.Struct, kw_only=True):
    """An engine that is up. What a roster holds is not changed; a round that goes on makes copies."""

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
    pace: EnginePace = _UNMEASURED

    def copy(self) -> "EngineState":
        """The same, to be changed apart."""
        return EngineState(
            engine_id=self.engine_id,
            model=self.model,
            max_batch=self.max_batch,
            num_calls=self.num_calls,
            num_latency_calls=self.num_latency_calls,
            num_tokens=self.num_tokens,
            num_unfilled_tokens=self.num_unfilled_tokens,
            capacity_tokens=self.capacity_tokens,
            pace=self.pace,
        )


_Entry = tuple[float, int]
"""What an order is by, and the engine's place among equals."""
_NOWHERE: tuple[None, None] = (None, None)


class FreeTokens:
    """Memory of the engines that take calls of some kind; one without calls has all there is."""

    __slots__ = ("_order", "of")

    def __init__(self) -> None:
        self.of: dict[EngineId, float] = {}
        """By engine; to be read."""
        self._order: list[float] = []

    def copy(self) -> "FreeTokens":
        """The same, to be changed apart."""
        other = FreeTokens()
        other.of, other._order = self.of.copy(), self._order.copy()
        return other

    def put(self, engine_id: EngineId, tokens: float | None) -> None:
        """So much is free on an engine; None when it takes no calls."""
        order, before = self._order, self.of.get(engine_id)
        if before == tokens:
            return
        if before is not None:
            del order[bisect_left(order, before)]
        if tokens is None:
            del self.of[engine_id]
        else:
            self.of[engine_id] = tokens
            insort(order, tokens)

    @property
    def most(self) -> float:
        """What is free where most is; less than nothing when no engine takes calls."""
        return self._order[-1] if self._order else -math.inf


class Standing:
    """The engines of one model, in order: those that have room by when they get to new work, all of them by
    their calls; of equals the first comes first. And how much memory those have free that have a place in a
    batch: for any call, for calls in general, and for calls that want small batches.
    """

    def __init__(self, latency_target_s: float) -> None:
        """Steps with a call that wants a small batch in them are to take no longer than the target."""
        self._latency_target_s = latency_target_s
        self._numbers: dict[EngineId, int] = {}
        self._states: dict[int, EngineState] = {}
        self._entries: dict[EngineId, tuple[_Entry | None, _Entry]] = {}
        """Where an engine stands in the two orders; in the first only while its batch is not full."""
        self._soonest: list[_Entry] = []
        self._emptiest: list[_Entry] = []
        self.free = FreeTokens()
        """Of engines whose batch is not full, whoever is in it."""
        self.free_for = (FreeTokens(), FreeTokens())
        """Of engines on which a call stays within the target; the second, one that wants a small batch."""

    def copy(self) -> "Standing":
        """The same, to be changed apart."""
        other = Standing(self._latency_target_s)
        # An engine's number never changes, so these are shared.
        other._numbers = self._numbers
        other._states = self._states.copy()
        other._entries = self._entries.copy()
        other._soonest = self._soonest.copy()
        other._emptiest = self._emptiest.copy()
        other.free = self.free.copy()
        other.free_for = (self.free_for[0].copy(), self.free_for[1].copy())
        return other

    def __contains__(self, engine_id: object) -> bool:
        return engine_id in self._entries

    def __getitem__(self, engine_id: EngineId) -> EngineState:
        return self._states[self._numbers[engine_id]]

    def enter(self, engine_id: EngineId, number: int) -> None:
        """Give an engine its place among equals, before it is put for the first time."""
        self._numbers[engine_id] = number

    def put(self, state: EngineState) -> None:
        """An engine is as it is now."""
        engine_id, pace, num_calls = state.engine_id, state.pace, state.num_calls
        number = self._numbers[engine_id]
        soonest = None
        if num_calls < state.max_batch:
            # `fill_s` and `step_s` written out: this is asked whenever anything changes on an engine.
            step_s = pace.base_s + pace.decode_s * (num_calls + 1)
            wait_s = pace.prefill_s * state.num_unfilled_tokens + TYPICAL_TOKENS * step_s
            soonest = (wait_s, number)
            self._put_free(state)
        else:
            self._remove_free(engine_id)
        emptiest = (num_calls, number)
        before, before_emptiest = self._entries.get(engine_id, _NOWHERE)
        if soonest != before:
            _move(self._soonest, before, soonest)
        if emptiest != before_emptiest:
            _move(self._emptiest, before_emptiest, emptiest)
        self._entries[engine_id] = (soonest, emptiest)
        self._states[number] = state

    def remove(self, engine_id: EngineId) -> None:
        """An engine takes nothing any more. Nothing happens when it did not."""
        entries = self._entries.pop(engine_id, None)
        if entries is not None:
            soonest, emptiest = entries
            _move(self._soonest, soonest, None)
            _move(self._emptiest, emptiest, None)
            self._remove_free(engine_id)

    def first(self, count: int) -> list[EngineState]:
        """So many of those whose batch is not full, from the one that gets to new work soonest on."""
        states = self._states
        return [states[number] for _, number in self._soonest[:count]]

    def emptiest(self) -> Iterator[EngineState]:
        """All of them, from the one with the fewest calls on."""
        states = self._states
        return (states[number] for _, number in self._emptiest)

    def in_order(self, engine_ids: Iterable[EngineId]) -> list[EngineState]:
        """Those of some engines that are among these, each at its place among equals."""
        numbers = [self._numbers[engine_id] for engine_id in engine_ids if engine_id in self._entries]
        return [self._states[number] for number in sorted(numbers)]

    def fitting(self, num_tokens: float, *, small: bool) -> Iterator[tuple[EngineState, float]]:
        """Those with a place and so much free memory for a call in general, or for one that wants a small
        batch, from the one that gets to new work soonest on; and how much memory that is.
        """
        free, states = self.free_for[small], self._states
        if free.most < num_tokens:
            return
        of = free.of
        for _, number in self._soonest:
            state = states[number]
            free_tokens = of.get(state.engine_id)
            if free_tokens is not None and free_tokens >= num_tokens:
                yield state, free_tokens

    def _put_free(self, state: EngineState) -> None:
        """What an engine has free for whom, in a batch that is not full."""
        engine_id, bulk, small = state.engine_id, *self.free_for
        if state.num_calls == 0:
            for free in (self.free, bulk, small):
                free.put(engine_id, math.inf)
            return
        free_tokens = float(state.capacity_tokens - state.num_tokens)
        self.free.put(engine_id, free_tokens)
        within = state.pace.batch_within(self._latency_target_s, state.max_batch, state.num_tokens)
        if state.num_calls < within:
            bulk.put(engine_id, free_tokens)
            small.put(engine_id, free_tokens)
        else:
            bulk.put(engine_id, None if state.num_latency_calls else free_tokens)
            small.put(engine_id, None)

    def _remove_free(self, engine_id: EngineId) -> None:
        for free in (self.free, *self.free_for):
            free.put(engine_id, None)


def _move(order: list[_Entry], before: _Entry | None, after: _Entry | None) -> None:
    if before is not None:
        del order[bisect_left(order, before)]
    if after is not None:
        insort(order, after)


class Roster(Collection[EngineState]):
    """The engines that are up."""

    def __init__(
        self, engines: Iterable[EngineState] = (), *, latency_target_s: float = LATENCY_TARGET_S
    ) -> None:
        """A step with a call in it that wants a small batch should not take longer than the target."""
        self.latency_target_s = latency_target_s
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

    @property
    def models(self) -> Collection[str]:
        """What they serve."""
        return self._standing.keys()

    def standing(self, model: str) -> Standing | None:
        """The engines of a model, to be read, or copied; None when there are none."""
        return self._standing.get(model)

    def of(self, model: str) -> Standing:
        """As `standing`, of a model that engines serve."""
        return self._standing[model]

    def put(self, state: EngineState, number: int) -> None:
        """An engine has come up, or has changed; `number` is its place among equals, always the same."""
        before = self._states.get(state.engine_id)
        if before is not None:
            self.num_places -= _places(before)
            if before.model != state.model:
                self._standing[before.model].remove(state.engine_id)
        self._states[state.engine_id] = state
        self.num_places += _places(state)
        standing = self._standing.get(state.model)
        if standing is None:
            standing = self._standing[state.model] = Standing(self.latency_target_s)
        standing.enter(state.engine_id, number)
        standing.put(state)

    def drop(self, engine_id: EngineId) -> None:
        """An engine is up no longer. Nothing happens when it was not."""
        state = self._states.pop(engine_id, None)
        if state is not None:
            self.num_places -= _places(state)
            self._standing[state.model].remove(engine_id)


def _places(state: EngineState) -> int:
    return max(0, state.max_batch - state.num_calls)
