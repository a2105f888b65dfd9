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
        full: set[str] = set()
        for call in snapshot.ready:
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
        seats = map(going.seat, standing.emptiest())
        emptiest = next((seat for seat in seats if seat.num_calls < self.bound(seat, snapshot)), None)
        if emptiest is None:
            return False
        shared = going.shared_tokens(call)
        if self.routes:
            holders = [
                seat
                for seat in map(going.seat, standing.in_order(shared))
                if seat.num_calls < self.bound(seat, snapshot)
                and seat.num_calls - emptiest.num_calls <= self.overfull * seat.state.max_batch
            ]
            if holders:
                longest = max(shared[s.state.engine_id] for s in holders)
                seat = least_loaded(s for s in holders if shared[s.state.engine_id] == longest)
                going.place(call, seat, longest, f"holds {longest} tokens of its prompt")
                return True
        held = shared.get(emptiest.state.engine_id, 0)
        going.place(call, emptiest, held, "the engine with the fewest calls")
        return True


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
