"""Token-weighted fair sharing between tenants, and, with `turns`, between the sessions of each tenant.

Every tenant has a **virtual token counter**: the cost of what it was served, divided by its weight. The
waiting call of the tenant with the lowest counter is admitted next; within the tenant, the one with the
lowest rank. So a share does not grow with the number of calls, nor with the number of sessions.

With `turns`, the sessions of a tenant are served alike too: within the tenant, in the same way, that of the
session with the lowest counter; within the session, the one with the lowest rank. Sessions that are alike
then all end late, at about the same time (processor sharing); by rank one after the other ends.

    tenant a  ▓▓▓▓▓▓░░░░      session 1 ▓▓▓▓      call, call, call     ← next: tenant b, session 3
    tenant b  ▓▓▓▓░░░░░░      session 2 ▓▓        call
                              session 3 ▓         call, call

A call is charged with what it is expected to cost when it is admitted, with what it really cost when it has
ended (Sheng et al., *Fairness in Serving Large Language Models*, OSDI 2024, with prediction). Who begins to
wait is lifted to the lowest counter of those who wait already, so that nobody saves up credit while idle
(Goyal et al., *Start-time Fair Queueing*, SIGCOMM 1996, do the same). The bounds are F1 to F6 in
`docs/invariants.md`.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from itertools import islice
from typing import Generic, TypeVar

import msgspec

from parrot.core.estimates import Work
from parrot.types.ids import CallId, SessionId, TenantId

Key = TypeVar("Key", bound=Hashable)
Rank = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCost:
    """What tokens cost, in the unit of counters. Output tokens take longer than prompt tokens, which are
    computed many at a time.
    """

    prompt: float = 1.0
    output: float = 2.0

    def of(self, work: Work) -> float:
        """The cost of work."""
        return self.prompt * work.prompt_tokens + self.output * work.output_tokens


class WaitingCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that waits for admission."""

    call_id: CallId
    tenant_id: TenantId
    session_id: SessionId
    expected: Work
    """What it is charged with on admission: prompt tokens that are shared may be left out."""
    rank: Rank = ()
    """Its place among the waiting calls of its tenant, with `turns` of its session: lower first, and of
    equals who came first."""


class FairQueue:
    """Waiting calls in the order in which they are to be admitted, and what everybody was served."""

    def __init__(
        self,
        *,
        weight_of: Callable[[TenantId], float] = lambda _: 1.0,
        cost: TokenCost | None = None,
        turns: bool = False,
    ) -> None:
        """`weight_of` gives a tenant's weight, above 0, at any time; every session has 1."""
        self._weight_of = weight_of
        self._turns = turns
        self._cost = cost or TokenCost()
        self._tenants = _Counters[TenantId]()
        self._sessions: dict[TenantId, _Counters[SessionId]] = {}
        """With `turns`."""
        self._queues: dict[SessionId, list[tuple[Rank, int, CallId]]] = {}
        self._waiting: dict[CallId, tuple[WaitingCall, int]] = {}
        self._charged: dict[CallId, tuple[WaitingCall, float]] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, call_id: CallId) -> bool:
        return call_id in self._waiting

    def add(self, call: WaitingCall) -> None:
        """A call begins to wait."""
        assert call.call_id not in self._waiting, f"{call.call_id} waits already"
        self._arrivals += 1
        self._waiting[call.call_id] = (call, self._arrivals)
        share = self._share(call)
        insort(self._queues.setdefault(share, []), (call.rank, self._arrivals, call.call_id))
        self._tenants.arrive(call.tenant_id)
        if self._turns:
            self._sessions.setdefault(call.tenant_id, _Counters()).arrive(share)

    def remove(self, call_id: CallId) -> None:
        """A call waits no longer, and was not admitted. Nothing happens when it did not wait."""
        found = self._waiting.pop(call_id, None)
        if found is None:
            return
        call, arrival = found
        share = self._share(call)
        queue = self._queues[share]
        del queue[bisect_left(queue, (call.rank, arrival, call_id))]
        if not queue:
            del self._queues[share]
        self._tenants.leave(call.tenant_id)
        if self._turns:
            self._sessions[call.tenant_id].leave(share)

    def admit(self, call_id: CallId) -> None:
        """A waiting call is served from now on; it is charged with what it is expected to cost."""
        call, _ = self._waiting[call_id]
        cost = self._cost.of(call.expected)
        self._charge(call, cost)
        self._charged[call_id] = (call, cost)
        self.remove(call_id)

    def progress(self, call_id: CallId, work: Work) -> None:
        """An admitted call has been served so much so far; what goes beyond its charge is charged at once."""
        found = self._charged.get(call_id)
        if found is None:
            return
        call, charged = found
        cost = self._cost.of(work)
        if cost > charged:
            self._charge(call, cost - charged)
            self._charged[call_id] = (call, cost)

    def finish(self, call_id: CallId, work: Work) -> None:
        """An admitted call has ended, whatever its outcome, and was served so much; its charge is corrected.

        Nothing happens when it was not admitted.
        """
        found = self._charged.pop(call_id, None)
        if found is not None:
            call, charged = found
            self._charge(call, self._cost.of(work) - charged)

    def forget(self, tenant_id: TenantId, session_id: SessionId) -> None:
        """A session is closed; none of its calls waits. What its tenant was served is kept."""
        assert session_id not in self._queues, f"calls of {session_id} wait"
        if not self._turns:
            return
        sessions = self._sessions.get(tenant_id)
        if sessions is not None:
            sessions.forget(session_id)

    def waits(self, session_id: SessionId) -> bool:
        """With `turns`: whether calls of a session wait."""
        return session_id in self._queues

    def order(self, allowance: Callable[[TenantId], int | None] = lambda _: None) -> Iterator[CallId]:
        """The waiting calls in the order in which they are to be admitted, were each charged with what it is
        expected to cost. Nothing is admitted by asking; the queue must not change while the answer is read.
        No more calls of a tenant are given than its `allowance`, where it has one.

        The first call costs as much as there are waiting tenants, each further one a logarithm.
        """
        shares = self._tenants.waiting()
        left = {tenant_id: allowance(tenant_id) for _, _, tenant_id in shares}
        if len(shares) == 1 and not self._turns:
            # Nobody to take turns with.
            tenant_id = shares[0][2]
            for _, _, call_id in islice(self._queues[SessionId(tenant_id)], left[tenant_id]):
                yield call_id
            return
        tenants = _Merge([share for share in shares if left[share[2]] != 0])
        sessions_of: dict[TenantId, _Merge[SessionId]] = {}
        positions: dict[SessionId, int] = {}
        while not tenants.empty:
            tenant_id = tenants.first
            sessions: _Merge[SessionId] | None = None
            session_id = SessionId(tenant_id)
            if self._turns:
                sessions = sessions_of.get(tenant_id)
                if sessions is None:
                    sessions = sessions_of[tenant_id] = _Merge(self._sessions[tenant_id].waiting())
                session_id = sessions.first
            queue = self._queues[session_id]
            position = positions.get(session_id, 0)
            positions[session_id] = position + 1
            call_id = queue[position][2]
            yield call_id
            cost = self._cost.of(self._waiting[call_id][0].expected)
            is_last = position + 1 == len(queue)
            if sessions is not None:
                sessions.advance(cost, last=is_last)
                is_last = sessions.empty
            remaining = left[tenant_id]
            left[tenant_id] = remaining = None if remaining is None else remaining - 1
            tenants.advance(cost / self._weight_of(tenant_id), last=is_last or remaining == 0)

    def counter(self, tenant_id: TenantId) -> float:
        """A tenant's virtual token counter."""
        return self._tenants.value(tenant_id)

    def session_counter(self, tenant_id: TenantId, session_id: SessionId) -> float:
        """With `turns`: a session's virtual token counter, among those of its tenant."""
        sessions = self._sessions.get(tenant_id)
        return 0.0 if sessions is None else sessions.value(session_id)

    def _share(self, call: WaitingCall) -> SessionId:
        """With whom a call shares a queue and a counter within its tenant: its session, or all of them."""
        return call.session_id if self._turns else SessionId(call.tenant_id)

    def _charge(self, call: WaitingCall, cost: float) -> None:
        self._tenants.charge(call.tenant_id, cost / self._weight_of(call.tenant_id))
        if self._turns:
            self._sessions[call.tenant_id].charge(call.session_id, cost)


@dataclass(slots=True, kw_only=True)
class _Account:
    value: float = 0.0
    num_waiting: int = 0
    since: int = 0
    """Which of all beginnings to wait was its last."""


class _Counters(Generic[Key]):
    """Virtual token counters of those who share one thing.

    The lowest counter of those who wait is kept in a heap. Counters mostly grow, so an entry that is below
    its counter is mended when it comes up; for a counter that shrinks, a new entry is made.
    """

    def __init__(self) -> None:
        self._accounts: dict[Key, _Account] = {}
        self._waiting: dict[Key, _Account] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._num_begun = 0
        self._last_left: Key | None = None
        self._floor = 0.0
        """The counter of the last that left, when it left or was forgotten."""

    def arrive(self, key: Key) -> None:
        account = self._accounts.setdefault(key, _Account())
        account.num_waiting += 1
        if account.num_waiting == 1:
            account.value = max(account.value, self._lowest())
            self._num_begun += 1
            account.since = self._num_begun
            self._waiting[key] = account
            self._push(key, account)

    def leave(self, key: Key) -> None:
        account = self._accounts[key]
        account.num_waiting -= 1
        if account.num_waiting == 0:
            del self._waiting[key]
            self._last_left, self._floor = key, account.value

    def charge(self, key: Key, cost: float) -> None:
        account = self._accounts.get(key)
        if account is None:
            return
        account.value += cost
        if cost < 0 and account.num_waiting:
            self._push(key, account)

    def forget(self, key: Key) -> None:
        account = self._accounts.pop(key, None)
        if account is not None and key == self._last_left:
            self._last_left, self._floor = None, account.value

    def value(self, key: Key) -> float:
        account = self._accounts.get(key)
        return 0.0 if account is None else account.value

    def waiting(self) -> list[tuple[float, int, Key]]:
        """Counter, place among equals, and whose it is."""
        return [(account.value, account.since, key) for key, account in self._waiting.items()]

    def _lowest(self) -> float:
        """The lowest counter of those who wait; when none does, that of the last who did."""
        while self._heap:
            value, since, key = self._heap[0]
            account = self._waiting.get(key)
            if account is None:
                heappop(self._heap)
            elif account.value == value:
                return value
            else:
                heapreplace(self._heap, (account.value, since, key))
        return self._floor if self._last_left is None else self._accounts[self._last_left].value

    def _push(self, key: Key, account: _Account) -> None:
        heappush(self._heap, (account.value, account.since, key))
        if len(self._heap) > 2 * len(self._waiting) + 8:
            self._heap = self.waiting()
            heapify(self._heap)


class _Merge(Generic[Key]):
    """Goes through shares, always on with the one whose counter is lowest."""

    def __init__(self, shares: list[tuple[float, int, Key]]) -> None:
        self._heap = shares
        heapify(shares)

    @property
    def empty(self) -> bool:
        return not self._heap

    @property
    def first(self) -> Key:
        return self._heap[0][2]

    def advance(self, cost: float, *, last: bool) -> None:
        """The first was served; with `last`, it has nothing more."""
        value, since, key = self._heap[0]
        if last:
            heappop(self._heap)
        else:
            heapreplace(self._heap, (value + cost, since, key))


def jain_index(shares: Sequence[float]) -> float:
    """How even shares are: 1 when all are equal, 1/n when one has everything (Jain, Chiu and Hawe 1984).

    Nothing, shared by whomever, is shared evenly.
    """
    squares = sum(share * share for share in shares)
    return 1.0 if squares == 0 else sum(shares) ** 2 / (len(shares) * squares)
