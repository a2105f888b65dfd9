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

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from parrot.core.roster import Standing
from parrot.core.scheduler import ReadyCall, Round, Schedule, Seat, Shared, Snapshot
from parrot.types.ids import CallId, PrefixKey

LOOK_AHEAD = 32
"""Ready calls that a round tries in vain before it gives up; what waits behind them has a later one."""


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


class _AppCentricRound:
    def __init__(self, policy: AppCentric, snapshot: Snapshot) -> None:
        self._policy = policy
        self._going = Round(snapshot)
        self._target_s = snapshot.latency_target_s
        self._homes = dict(snapshot.group_homes)
        self._shared: dict[CallId, Shared] = {}
        self._refused: dict[tuple[str, bool], int] = {}
        """Of calls that nothing had room for, by model and by whether they want small batches: the least
        tokens needed. Room only shrinks in a round, so what needs as much is refused without a look."""
        self._refused_there: dict[tuple[str, bool, tuple[PrefixKey, ...]], int] = {}
        """The same for calls that share what is there, by what that is; until something is placed."""

    def run(self) -> Schedule:
        room = self._going.num_places
        num_refused = 0
        for calls in self._units() if room else ():
            if len(calls) == 1 or not self._place_group(calls):
                placed = [self._place_one(call) for call in calls]
                num_refused = 0 if any(placed) else num_refused + len(placed)
            if len(self._going.placements) >= room or num_refused >= LOOK_AHEAD:
                break
        return self._going.schedule()

    def _units(self) -> Iterator[Sequence[ReadyCall]]:
        """What is placed together: groups at the place of their first call, and single calls. Reads no
        further than it is asked to.
        """
        group_of = self._going.snapshot.group_of
        done: set[CallId] = set()
        calls = iter(self._going.snapshot.ready)
        if group_of is None:
            everything = tuple(calls)
            calls, group_of = iter(everything), partial(_group_among, everything)
        for call in calls:
            if call.call_id in done:
                continue
            grouped = call.objective.task_group is not None and self._policy.groups
            unit = group_of(call) if grouped else (call,)
            done.update(other.call_id for other in unit)
            yield unit

    # ── groups ──────────────────────────────────────────────────────────────────────────────────────────────

    def _place_group(self, calls: Sequence[ReadyCall]) -> bool:
        """All on the engine that would have all of them done first; False when none has room for all."""
        standing = self._going.standing(calls[0].model)
        if standing is None:
            return False
        small = any(call.wants_small_batches for call in calls)
        common = _common_tokens(calls)
        needed = sum(call.num_prompt_tokens + call.num_output_tokens for call in calls)
        needed -= common * (len(calls) - 1)
        if self._is_refused(calls[0].model, standing, small=small, needed=needed - common):
            return False
        held = self._tokens_there(calls[0])
        fits = partial(self._fits_all, held=held, count=len(calls), small=small, needed=needed, common=common)
        candidates = [seat for seat in self._going.holders(standing, held) if fits(seat)]
        other = next((seat for seat in self._going.soonest(standing) if fits(seat)), None)
        if other is not None:
            candidates.append(other)
        if not candidates:
            return False
        best = min(candidates, key=lambda seat: self._group_finish_s(seat, calls, common))
        why = f"with the {len(calls)} calls of its group"
        for call in calls:
            shared = self._tokens_there(call, anew=True).get(best.state.engine_id)
            self._put(call, best, shared, f"{why}, {shared} tokens are there" if shared else why)
        return True

    def _fits_all(
        self,
        seat: Seat,
        *,
        held: Shared,
        count: int,
        small: bool,
        needed: int,
        common: int,
    ) -> bool:
        needed -= min(common, held.get(seat.state.engine_id))
        batch = self._batch(seat, small=small)
        return seat.num_calls + count <= batch and seat.num_tokens + needed <= seat.state.capacity_tokens

    def _group_finish_s(self, seat: Seat, calls: Sequence[ReadyCall], common: int) -> float:
        """When the last would be done: all prompts filled, what is common once, then all decoded."""
        pace = seat.state.pace
        held = self._tokens_there(calls[0]).get(seat.state.engine_id) if self._policy.affinity else 0
        once = max(common, held)
        to_fill = seat.num_unfilled_tokens + once - held
        to_fill += sum(max(0, call.num_prompt_tokens - once) for call in calls)
        longest = max(call.num_output_tokens for call in calls)
        batch = min(seat.num_calls + len(calls), seat.state.max_batch)
        return pace.fill_s(to_fill) + longest * pace.step_s(batch)

    # ── single calls ────────────────────────────────────────────────────────────────────────────────────────

    def _place_one(self, call: ReadyCall) -> bool:
        """Where it is done first; False when no engine has room for it now."""
        going, standing = self._going, self._going.standing(call.model)
        if standing is None:
            return False
        held_keys = going.held_keys(call)
        refused = (call.model, call.wants_small_batches, held_keys)
        needed = call.num_prompt_tokens + call.num_output_tokens
        if needed >= self._refused_there.get(refused, math.inf):
            return self._defer(call)
        held = self._tokens_there(call, anew=True)
        home = self._homes.get(call.objective.task_group or "") if self._policy.groups else None
        homes = going.among(standing, [home]) if home else []
        at_home = [seat for seat in homes if self._fits(seat, call, held)]
        candidates = at_home or [
            seat for seat in going.holders(standing, held) if self._fits(seat, call, held)
        ]
        if not at_home:
            candidates += self._first_fitting(call, standing, held)
        if not candidates:
            self._refused_there[refused] = needed
            return self._defer(call)
        best = min(candidates, key=lambda seat: (self._mixes(seat, call), self._finish_s(seat, call, held)))
        shared = held.get(best.state.engine_id)
        there = f", {shared} tokens of its prompt are there" if shared else ""
        why = f"done there first, in about {self._finish_s(best, call, held):.2f} s{there}"
        self._put(call, best, shared, "where the rest of its group is" if at_home else why)
        return True

    def _defer(self, call: ReadyCall) -> bool:
        """No engine has room: a call that somebody waits for has the next there is."""
        if call.wants_small_batches and self._policy.isolation:
            self._going.reserve(call.model)
        return False

    def _first_fitting(self, call: ReadyCall, standing: Standing, held: Shared) -> Sequence[Seat]:
        """The engine that gets to it soonest, one that does not mix work if there is one; or none."""
        small, needed = call.wants_small_batches, call.num_prompt_tokens + call.num_output_tokens
        if self._is_refused(call.model, standing, small=small, needed=needed):
            return ()
        mixed: Sequence[Seat] = ()
        for seat in self._going.soonest(standing):
            if self._fits(seat, call, held):
                if not self._mixes(seat, call):
                    return (seat,)
                mixed = mixed or (seat,)
        if not mixed:
            self._refused[call.model, small] = needed
        return mixed

    def _is_refused(self, model: str, standing: Standing, *, small: bool, needed: int) -> bool:
        """Whether it is known that no engine has room for so much, unless it holds some of it."""
        return needed > standing.most_free_tokens or needed >= self._refused.get((model, small), math.inf)

    def _fits(self, seat: Seat, call: ReadyCall, held: Shared) -> bool:
        batch = self._batch(seat, small=call.wants_small_batches)
        return seat.fits(call, held.get(seat.state.engine_id), batch)

    def _mixes(self, seat: Seat, call: ReadyCall) -> bool:
        """Whether work in bulk would slow down calls that somebody waits for."""
        return self._policy.isolation and not call.wants_small_batches and seat.num_latency_calls > 0

    def _batch(self, seat: Seat, *, small: bool) -> int:
        """How many calls the engine may have, with this one among them."""
        most = seat.state.max_batch
        if self._policy.isolation and (small or seat.num_latency_calls):
            return seat.state.pace.batch_within(self._target_s, most)
        return most

    def _finish_s(self, seat: Seat, call: ReadyCall, held: Shared) -> float:
        return seat.finish_s(call, held.get(seat.state.engine_id) if self._policy.affinity else 0)

    def _tokens_there(self, call: ReadyCall, *, anew: bool = False) -> Shared:
        """How many tokens of its prompt each engine has; `anew` when placements may have changed that."""
        found = None if anew else self._shared.get(call.call_id)
        if found is None:
            found = self._shared[call.call_id] = self._going.shared_tokens(call)
        return found

    def _put(self, call: ReadyCall, seat: Seat, shared: int, why: str) -> None:
        if call.objective.task_group is not None:
            self._homes[call.objective.task_group] = seat.state.engine_id
        self._going.place(call, seat, shared, why)
        self._refused_there.clear()


def _group_among(calls: Sequence[ReadyCall], call: ReadyCall) -> Sequence[ReadyCall]:
    """The calls of a call's group."""
    group = (call.objective.task_group, call.model)
    return [other for other in calls if (other.objective.task_group, other.model) == group]


def _common_tokens(calls: Sequence[ReadyCall]) -> int:
    """Tokens of the longest prefix that all calls of a group have."""
    common = 0
    for boundary in zip(*(call.keys for call in calls), strict=False):
        if len(set(boundary)) > 1:
            break
        common += 1
    return calls[0].lengths[common - 1] if common else 0
