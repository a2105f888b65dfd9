"""The policy that sees applications (paper, algorithm 1, with finish times in place of membership).

In the order given:

* a **task group** is placed as a whole, on the engine that would have all of it done first; it is split only
when no
  engine has room for it, and what is left over goes where the rest of the group is;
* any other call goes to the engine that would have it done first, what it shares there taken into account;
* a call that somebody waits for runs only in batches whose steps stay within the latency target; where there
is no
  such room, it has the next: nothing else is placed on the engine that will have it first;
* everything else is kept from engines with such calls while others have room, and fills engines up to their
batch.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from parrot.core.scheduler import ReadyCall, Round, Schedule, Seat, Snapshot
from parrot.types.ids import CallId, EngineId

LOOK_AHEAD = 32
"""Ready calls that a round tries in vain before it gives up; what waits behind them has a later one."""
TYPICAL_TOKENS = 128
"""Output tokens of a call that stands for any call, when engines are put in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppCentric:
    """The policy, and which of its ingredients are on."""

    groups: bool = True
    """Place task groups together."""
    affinity: bool = True
    """Take into account where prefixes are."""
    isolation: bool = True
    """Keep latency-sensitive calls and full batches apart."""

    def __call__(self, snapshot: Snapshot) -> Schedule:
        """One round."""
        return _AppCentricRound(self, snapshot).run()


class _Standing:
    """The engines of one model that have room, from the one that gets to new work soonest on."""

    def __init__(self, seats: Sequence[Seat]) -> None:
        self._seats = {seat.state.engine_id: seat for seat in seats}
        self._numbers = {seat.state.engine_id: number for number, seat in enumerate(seats)}
        self._by_number = list(seats)
        self._keys: dict[EngineId, tuple[float, int]] = {}
        self._order: list[tuple[float, int]] = []
        for seat in seats:
            self.update(seat)

    def update(self, seat: Seat) -> None:
        """Something was placed on it, or it was reserved."""
        engine_id = seat.state.engine_id
        old = self._keys.pop(engine_id, None)
        if old is not None:
            del self._order[bisect_left(self._order, old)]
        if seat.num_calls < seat.state.max_batch and not seat.reserved:
            pace = seat.state.pace
            wait_s = pace.fill_s(seat.num_unfilled_tokens) + TYPICAL_TOKENS * pace.step_s(seat.num_calls + 1)
            key = self._keys[engine_id] = (wait_s, self._numbers[engine_id])
            insort(self._order, key)

    def __iter__(self) -> Iterator[Seat]:
        return (self._by_number[number] for _, number in self._order)

    def among(self, engine_ids: Iterable[EngineId]) -> list[Seat]:
        """Those of some engines that have room."""
        return [self._seats[engine_id] for engine_id in engine_ids if engine_id in self._keys]

    @property
    def seats(self) -> Sequence[Seat]:
        """All of them, full ones too."""
        return self._by_number


class _AppCentricRound:
    def __init__(self, policy: AppCentric, snapshot: Snapshot) -> None:
        self._policy = policy
        self._going = Round(snapshot)
        self._target_s = snapshot.latency_target_s
        self._homes = dict(snapshot.group_homes)
        self._standing = {model: _Standing(seats) for model, seats in self._going.by_model.items()}
        self._shared: dict[CallId, Mapping[EngineId, int]] = {}

    def run(self) -> Schedule:
        room = sum(max(0, s.state.max_batch - s.num_calls) for s in self._going.seats.values())
        num_refused = 0
        for calls in self._units(room):
            if len(self._going.placements) >= room or num_refused >= LOOK_AHEAD:
                break
            if len(calls) == 1 or not self._place_group(calls):
                placed = [self._place_one(call) for call in calls]
                num_refused = 0 if any(placed) else num_refused + len(placed)
        return self._going.schedule()

    def _units(self, room: int) -> Iterable[Sequence[ReadyCall]]:
        """What is placed together: groups at the place of their first call, and single calls."""
        units: dict[object, list[ReadyCall]] = {}
        for call in islice(self._going.snapshot.ready, room + LOOK_AHEAD if room > 0 else 0):
            grouped = call.objective.task_group is not None and self._policy.groups
            units.setdefault((call.objective.task_group, call.model) if grouped else call.call_id, []).append(
                call
            )
        return units.values()

    # ── groups ──────────────────────────────────────────────────────────────────────────────────────────────

    def _place_group(self, calls: Sequence[ReadyCall]) -> bool:
        """All on the engine that would have all of them done first; False when none has room for all."""
        standing = self._standing.get(calls[0].model)
        if standing is None:
            return False
        common = _common_tokens(calls)
        held = self._tokens_there(calls[0])
        candidates = [seat for seat in standing.among(held) if self._fits_all(seat, calls, common)]
        other = next((seat for seat in standing if self._fits_all(seat, calls, common)), None)
        if other is not None:
            candidates.append(other)
        if not candidates:
            return False
        best = min(candidates, key=lambda seat: self._group_finish_s(seat, calls, common))
        why = f"with the {len(calls)} calls of its group"
        for call in calls:
            shared = self._tokens_there(call, anew=True).get(best.state.engine_id, 0)
            self._put(call, best, shared, f"{why}, {shared} tokens are there" if shared else why)
        return True

    def _fits_all(self, seat: Seat, calls: Sequence[ReadyCall], common: int) -> bool:
        batch = self._batch(seat, small=any(call.wants_small_batches for call in calls))
        needed = sum(call.num_prompt_tokens + call.num_output_tokens for call in calls)
        held = self._tokens_there(calls[0]).get(seat.state.engine_id, 0)
        needed -= common * (len(calls) - 1) + min(common, held)
        return seat.num_calls + len(calls) <= batch and seat.num_tokens + needed <= seat.state.capacity_tokens

    def _group_finish_s(self, seat: Seat, calls: Sequence[ReadyCall], common: int) -> float:
        """When the last would be done: all prompts filled, what is common once, then all decoded."""
        pace = seat.state.pace
        held = self._tokens_there(calls[0]).get(seat.state.engine_id, 0) if self._policy.affinity else 0
        once = max(common, held)
        to_fill = seat.num_unfilled_tokens + once - held
        to_fill += sum(max(0, call.num_prompt_tokens - once) for call in calls)
        longest = max(call.num_output_tokens for call in calls)
        batch = min(seat.num_calls + len(calls), seat.state.max_batch)
        return pace.fill_s(to_fill) + longest * pace.step_s(batch)

    # ── single calls ────────────────────────────────────────────────────────────────────────────────────────

    def _place_one(self, call: ReadyCall) -> bool:
        """Where it is done first; False when no engine has room for it now."""
        standing = self._standing.get(call.model)
        if standing is None:
            return False
        held = self._tokens_there(call, anew=True)
        home = self._homes.get(call.objective.task_group or "") if self._policy.groups else None
        at_home = [seat for seat in standing.among([home] if home else []) if self._fits(seat, call, held)]
        candidates = at_home or [seat for seat in standing.among(held) if self._fits(seat, call, held)]
        if not at_home:
            candidates += self._first_fitting(call, standing, held)
        if not candidates:
            self._reserve(call, standing)
            return False
        best = min(candidates, key=lambda seat: (self._mixes(seat, call), self._finish_s(seat, call, held)))
        shared = held.get(best.state.engine_id, 0)
        there = f", {shared} tokens of its prompt are there" if shared else ""
        why = f"done there first, in about {self._finish_s(best, call, held):.2f} s{there}"
        self._put(call, best, shared, "where the rest of its group is" if at_home else why)
        return True

    def _first_fitting(
        self, call: ReadyCall, standing: _Standing, held: Mapping[EngineId, int]
    ) -> Sequence[Seat]:
        """The engine that gets to it soonest, one that does not mix work if there is one; or none."""
        mixed: Sequence[Seat] = ()
        for seat in standing:
            if self._fits(seat, call, held):
                if not self._mixes(seat, call):
                    return (seat,)
                mixed = mixed or (seat,)
        return mixed

    def _fits(self, seat: Seat, call: ReadyCall, held: Mapping[EngineId, int]) -> bool:
        batch = self._batch(seat, small=call.wants_small_batches)
        return seat.fits(call, held.get(seat.state.engine_id, 0), batch)

    def _mixes(self, seat: Seat, call: ReadyCall) -> bool:
        """Whether work in bulk would slow down calls that somebody waits for."""
        return self._policy.isolation and not call.wants_small_batches and seat.num_latency_calls > 0

    def _batch(self, seat: Seat, *, small: bool) -> int:
        """How many calls the engine may have, with this one among them."""
        most = seat.state.max_batch
        if self._policy.isolation and (small or seat.num_latency_calls):
            return seat.state.pace.batch_within(self._target_s, most)
        return most

    def _finish_s(self, seat: Seat, call: ReadyCall, held: Mapping[EngineId, int]) -> float:
        return seat.finish_s(call, held.get(seat.state.engine_id, 0) if self._policy.affinity else 0)

    def _reserve(self, call: ReadyCall, standing: _Standing) -> None:
        """A call that somebody waits for found no room: it has the next there is."""
        if call.wants_small_batches and self._policy.isolation:
            soonest = min(standing.seats, key=lambda seat: (seat.reserved, seat.num_calls))
            soonest.reserved = True
            standing.update(soonest)

    def _tokens_there(self, call: ReadyCall, *, anew: bool = False) -> Mapping[EngineId, int]:
        """How many tokens of its prompt each engine has; `anew` when placements may have changed that."""
        found = None if anew else self._shared.get(call.call_id)
        if found is None:
            found = self._shared[call.call_id] = self._going.shared_tokens(call)
        return found

    def _put(self, call: ReadyCall, seat: Seat, shared: int, why: str) -> None:
        if call.objective.task_group is not None:
            self._homes[call.objective.task_group] = seat.state.engine_id
        self._going.place(call, seat, shared, why)
        self._standing[call.model].update(seat)


def _common_tokens(calls: Sequence[ReadyCall]) -> int:
    """Tokens of the longest prefix that all calls of a group have."""
    common = 0
    for boundary in zip(*(call.keys for call in calls), strict=False):
        if len(set(boundary)) > 1:
            break
        common += 1
    return calls[0].lengths[common - 1] if common else 0
