"""Policies that see single requests only: the base lines. Each admits in the order given, up to a bound."""

from collections.abc import Callable
from dataclasses import dataclass

from parrot.core.roster import Standing
from parrot.core.scheduler import ReadyCall, Round, Schedule, Seat, Shared, Snapshot, least_loaded

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
        holder = self._holder(going, standing, shared, emptiest, snapshot) if self.routes else None
        if holder is not None:
            longest = shared.get(holder.state.engine_id)
            going.place(call, holder, longest, f"holds {longest} tokens of its prompt")
            return True
        held = shared.get(emptiest.state.engine_id)
        going.place(call, emptiest, held, "the engine with the fewest calls")
        return True

    def _holder(
        self, going: Round, standing: Standing, shared: Shared, emptiest: Seat, snapshot: Snapshot
    ) -> Seat | None:
        """Of the engines with the longest prefix, which are not much fuller than the emptiest, the one with
        the fewest calls.
        """

        def takes(seat: Seat) -> bool:
            ahead = seat.num_calls - emptiest.num_calls
            return (
                seat.num_calls < self.bound(seat, snapshot) and ahead <= self.overfull * seat.state.max_batch
            )

        holders = [seat for seat in map(going.seat, standing.in_order(shared.listed)) if takes(seat)]
        if holders:
            longest = max(shared.get(seat.state.engine_id) for seat in holders)
            return least_loaded(s for s in holders if shared.get(s.state.engine_id) == longest)
        if not shared.is_wide:
            return None
        wide = (seat for seat in map(going.seat, standing.emptiest()) if shared.get(seat.state.engine_id))
        return next(filter(takes, wide), None)


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
