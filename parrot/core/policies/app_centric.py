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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from parrot.core.scheduler import ReadyCall, Round, Schedule, Seat, Snapshot

LOOK_AHEAD = 256
"""Ready calls that a round looks at at most beyond those it places, so that a full cluster costs little."""


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

    def run(self) -> Schedule:
        room = self._room()
        groups: dict[tuple[str, str], list[ReadyCall]] = {}
        ordered: list[list[ReadyCall]] = []
        for call in islice(self._going.snapshot.ready, room + LOOK_AHEAD if room > 0 else 0):
            if call.objective.task_group is None or not self._policy.groups:
                ordered.append([call])
                continue
            group = (call.objective.task_group, call.model)
            if group not in groups:
                groups[group] = []
                ordered.append(groups[group])
            groups[group].append(call)
        for calls in ordered:
            if len(calls) > 1:
                self._place_group(calls)
            else:
                self._place_one(calls[0])
        return self._going.schedule()

    def _room(self) -> int:
        return sum(max(0, s.state.max_batch - s.num_calls) for s in self._going.seats.values())

    def _batch(self, seat: Seat, *, small: bool) -> int:
        """How many calls the engine may have, with this one among them."""
        most = seat.state.max_batch
        if self._policy.isolation and (small or seat.num_latency_calls):
            return seat.state.pace.batch_within(self._target_s, most)
        return most

    def _shared(self, call: ReadyCall, seat: Seat) -> int:
        return self._going.shared_tokens(call).get(seat.state.engine_id, 0)

    def _place_group(self, calls: Sequence[ReadyCall]) -> None:
        """All on one engine if one has room for all, else as many as fit on each, best first."""
        seats = self._seats(calls[0])
        whole = [seat for seat in seats if self._fits_all(seat, calls)]
        if not whole:
            for call in calls:
                self._place_one(call)
            return
        best = min(whole, key=lambda seat: self._group_finish_s(seat, calls))
        for call in calls:
            shared = self._shared(call, best)
            why = f"with the {len(calls)} calls of its group"
            self._put(call, best, shared, why if not shared else f"{why}, {shared} tokens are there")

    def _fits_all(self, seat: Seat, calls: Sequence[ReadyCall]) -> bool:
        if seat.reserved:
            return False
        batch = self._batch(seat, small=any(call.wants_small_batches for call in calls))
        needed = sum(call.num_prompt_tokens + call.num_output_tokens for call in calls)
        common = self._common_tokens(calls)
        needed -= common * (len(calls) - 1) + min(common, self._shared(calls[0], seat))
        return seat.num_calls + len(calls) <= batch and seat.num_tokens + needed <= seat.state.capacity_tokens

    def _common_tokens(self, calls: Sequence[ReadyCall]) -> int:
        """Tokens of the longest prefix that all calls of a group have."""
        common = 0
        for boundary in zip(*(call.keys for call in calls), strict=False):
            if len(set(boundary)) > 1:
                break
            common += 1
        return calls[0].lengths[common - 1] if common else 0

    def _group_finish_s(self, seat: Seat, calls: Sequence[ReadyCall]) -> float:
        """When the last of the group would be done: all prompts filled, each common prefix once, then all
        decoded.
        """
        pace = seat.state.pace
        held = self._shared(calls[0], seat) if self._policy.affinity else 0
        common = max(self._common_tokens(calls), held)
        to_fill = seat.num_unfilled_tokens + (common - held)
        to_fill += sum(max(0, call.num_prompt_tokens - common) for call in calls)
        longest = max(call.num_output_tokens for call in calls)
        return pace.fill_s(to_fill) + longest * pace.step_s(
            min(seat.num_calls + len(calls), seat.state.max_batch)
        )

    def _place_one(self, call: ReadyCall) -> None:
        seats = self._seats(call)
        if not seats:
            return
        shared = self._going.shared_tokens(call)
        small = call.wants_small_batches
        fitting = [
            seat
            for seat in seats
            if not seat.reserved
            and seat.fits(call, shared.get(seat.state.engine_id, 0), self._batch(seat, small=small))
        ]
        if not fitting:
            if small and self._policy.isolation:
                soonest = min(seats, key=lambda seat: seat.num_calls)
                soonest.reserved = True
            return
        if not small and self._policy.isolation:
            fitting = [seat for seat in fitting if not seat.num_latency_calls] or fitting
        seat = min(fitting, key=lambda seat: self._finish_s(seat, call, shared.get(seat.state.engine_id, 0)))
        home = self._home(call, fitting)
        if home is not None:
            seat = home
        held = shared.get(seat.state.engine_id, 0)
        self._put(call, seat, held, self._why(call, seat, held, home is not None, len(fitting)))

    def _home(self, call: ReadyCall, fitting: Sequence[Seat]) -> Seat | None:
        """Where the rest of the call's group is."""
        group = call.objective.task_group if self._policy.groups else None
        home = self._homes.get(group) if group is not None else None
        return next((seat for seat in fitting if seat.state.engine_id == home), None)

    def _finish_s(self, seat: Seat, call: ReadyCall, shared: int) -> float:
        return seat.finish_s(call, shared if self._policy.affinity else 0)

    def _why(self, call: ReadyCall, seat: Seat, held: int, at_home: bool, num_fitting: int) -> str:
        if at_home:
            return "where the rest of its group is"
        if num_fitting == 1 and len(self._going.by_model[call.model]) > 1:
            return "the only engine with room"
        seconds = self._finish_s(seat, call, held)
        there = f", {held} tokens of its prompt are there" if held else ""
        return f"done there first, in about {seconds:.2f} s{there}"

    def _put(self, call: ReadyCall, seat: Seat, shared: int, why: str) -> None:
        if call.objective.task_group is not None:
            self._homes[call.objective.task_group] = seat.state.engine_id
        self._going.place(call, seat, shared, why)

    def _seats(self, call: ReadyCall) -> Sequence[Seat]:
        return self._going.by_model.get(call.model, ())
