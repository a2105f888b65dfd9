"""Policies that see single requests only: the base lines. Each admits in the order given, up to a bound."""

from collections.abc import Callable
from dataclasses import dataclass

from parrot.core.scheduler import ReadyCall, Round, Schedule, Seat, Snapshot, least_loaded

Bound = Callable[[Seat, Snapshot], int]
"""How many calls an engine may have at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLevel:
    """Requests in order, each to the engine with the fewest, or, with `routes`, to the one that has its
    prefix.
    """

    bound: Bound
    routes: bool = False
    overfull: float = 1.0
    """With `routes`: an engine that is so many batches ahead of the emptiest one is not chosen for its
    prefix."""

    def __call__(self, snapshot: Snapshot) -> Schedule:
        """One round."""
        going = Round(snapshot)
        bounds = {engine_id: self.bound(seat, snapshot) for engine_id, seat in going.seats.items()}
        num_free = sum(max(0, bounds[e] - seat.num_calls) for e, seat in going.seats.items())
        for call in snapshot.ready:
            if num_free <= 0:
                break
            seats = [
                seat
                for seat in going.by_model.get(call.model, ())
                if seat.num_calls < bounds[seat.state.engine_id]
            ]
            if seats:
                num_free -= 1
                self._place(going, call, seats)
        return going.schedule()

    def _place(self, going: Round, call: ReadyCall, seats: list[Seat]) -> None:
        shared = going.shared_tokens(call)
        emptiest = least_loaded(seats)
        if self.routes:
            holders = [
                seat
                for seat in seats
                if shared.get(seat.state.engine_id, 0)
                and seat.num_calls - emptiest.num_calls <= self.overfull * seat.state.max_batch
            ]
            if holders:
                longest = max(shared[s.state.engine_id] for s in holders)
                seat = least_loaded(s for s in holders if shared[s.state.engine_id] == longest)
                going.place(call, seat, longest, f"holds {longest} tokens of its prompt")
                return
        held = shared.get(emptiest.state.engine_id, 0)
        going.place(call, emptiest, held, "the engine with the fewest calls")


def without_bound(_: Seat, __: Snapshot) -> int:
    """As many as come; the engine queues them."""
    return 1 << 62


def small_batch(seat: Seat, snapshot: Snapshot) -> int:
    """As many as leave every step within the latency target: each request is treated as if someone waited for
    it.
    """
    return seat.state.pace.batch_within(snapshot.latency_target_s, seat.state.max_batch)


def full_batch(seat: Seat, _: Snapshot) -> int:
    """As many as the engine can batch."""
    return seat.state.max_batch
