"""The bounds of fair sharing, over random arrivals, sizes, weights and cancellations."""

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from parrot.core.estimates import Work
from parrot.core.fairness import FairQueue, TokenCost, WaitingCall
from parrot.types.ids import CallId, SessionId, TenantId

SLACK = 1e-6
"""For sums of floats."""


class Watch:
    """Service of several shares, and of each two that wait how far they have come apart meanwhile."""

    def __init__(self, weights: Mapping[Hashable, float]) -> None:
        self.weights = weights
        self.service: dict[Hashable, float] = {}
        self.largest: dict[Hashable, float] = {}
        self.apart: dict[tuple[Hashable, Hashable], tuple[float, float]] = {}
        self.since_served: dict[Hashable, dict[Hashable, float]] = {}
        """Of each share that waits: the service of the others when it began to wait or was last served."""

    def weight(self, key: Hashable) -> float:
        return self.weights.get(key, 1.0)

    def note_size(self, key: Hashable, cost: float) -> None:
        self.largest[key] = max(self.largest.get(key, 0.0), cost)
        self.service.setdefault(key, 0.0)

    def serve(self, key: Hashable, cost: float) -> None:
        self.service[key] += cost
        self.since_served.pop(key, None)

    def look(self, waiting: set[Hashable]) -> None:
        """After each step: who waits now. Checks the bounds."""
        for key in [key for key in self.since_served if key not in waiting]:
            del self.since_served[key]
        for pair in [pair for pair in self.apart if not waiting.issuperset(pair)]:
            del self.apart[pair]
        for key in waiting:
            before = self.since_served.setdefault(key, dict(self.service))
            for other, service in self.service.items():
                if other != key:
                    bound = self.largest[other] + self.weight(other) * self.largest[key] / self.weight(key)
                    assert service - before.get(other, 0.0) <= bound + SLACK
        for one, two in combinations(sorted(waiting, key=str), 2):
            now = self.service[one] / self.weight(one) - self.service[two] / self.weight(two)
            low, high = self.apart.get((one, two), (now, now))
            low, high = min(low, now), max(high, now)
            self.apart[one, two] = (low, high)
            bound = self.largest[one] / self.weight(one) + self.largest[two] / self.weight(two)
            assert high - low <= bound + SLACK


COST = TokenCost(prompt=1.0, output=2.0)
ARRIVAL = st.tuples(
    st.just("arrive"), st.integers(0, 3), st.integers(0, 2), st.integers(0, 50), st.integers(0, 50)
)
STEP = st.one_of(
    ARRIVAL,
    ARRIVAL,
    st.tuples(
        st.sampled_from(("admit", "admit", "withdraw")),
        st.integers(0, 100),
        st.just(0),
        st.just(0),
        st.just(0),
    ),
)
WEIGHTS = st.lists(st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=4, max_size=4)


@settings(deadline=None, max_examples=150)
@given(st.lists(ARRIVAL, min_size=5, max_size=40), st.lists(STEP, min_size=20, max_size=120), WEIGHTS)
def test_those_who_wait_are_served_alike(
    backlog: Sequence[tuple[str, int, int, int, int]],
    steps: Sequence[tuple[str, int, int, int, int]],
    weights: Sequence[float],
) -> None:
    """F1 between tenants, F2 between the sessions of a tenant, F3: nobody starves, F4: no credit."""
    by_tenant = {TenantId(f"t{i}"): weight for i, weight in enumerate(weights)}
    queue = FairQueue(weight_of=by_tenant.__getitem__, cost=COST, turns=True)
    tenants = Watch(dict(by_tenant.items()))
    sessions = {tenant_id: Watch({}) for tenant_id in by_tenant}
    waiting: dict[CallId, WaitingCall] = {}
    for number, (kind, one, two, prompt, output) in enumerate([*backlog, *steps]):
        if kind == "arrive":
            call = WaitingCall(
                call_id=CallId(f"c{number}"),
                tenant_id=TenantId(f"t{one}"),
                session_id=SessionId(f"t{one}s{two}"),
                expected=Work(prompt_tokens=prompt, output_tokens=output),
            )
            arrive(queue, waiting, call)
            tenants.note_size(call.tenant_id, COST.of(call.expected))
            sessions[call.tenant_id].note_size(call.session_id, COST.of(call.expected))
        elif waiting and kind == "withdraw":
            call_id = list(waiting)[one % len(waiting)]
            del waiting[call_id]
            queue.remove(call_id)
        elif waiting:
            call_id = next(queue.order())
            queue.admit(call_id)
            call = waiting.pop(call_id)
            tenants.serve(call.tenant_id, COST.of(call.expected))
            sessions[call.tenant_id].serve(call.session_id, COST.of(call.expected))
            queue.finish(call_id, call.expected)
        tenants.look({call.tenant_id for call in waiting.values()})
        for tenant_id, watch in sessions.items():
            watch.look({c.session_id for c in waiting.values() if c.tenant_id == tenant_id})
    assert len(queue) == len(waiting)


def arrive(queue: FairQueue, waiting: dict[CallId, WaitingCall], call: WaitingCall) -> None:
    """F4: who begins to wait begins no lower than the lowest of those who wait."""
    before = {queue.counter(other.tenant_id) for other in waiting.values()}
    queue.add(call)
    waiting[call.call_id] = call
    if before:
        assert queue.counter(call.tenant_id) >= min(before) - SLACK


CALLS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2), st.integers(0, 50)), max_size=40
)


@settings(deadline=None, max_examples=150)
@given(CALLS, WEIGHTS, st.integers(0, 10))
def test_the_order_names_every_waiting_call_once_and_is_kept(
    calls: Sequence[tuple[int, int, int, int]], weights: Sequence[float], num_served: int
) -> None:
    """F5: asking changes nothing, and whoever is admitted in the foreseen order confirms it."""
    by_tenant = {TenantId(f"t{i}"): weight for i, weight in enumerate(weights)}
    queue = FairQueue(weight_of=by_tenant.__getitem__, cost=COST, turns=True)
    known: dict[CallId, WaitingCall] = {}
    for number, (tenant, session, rank, tokens) in enumerate(calls):
        call = WaitingCall(
            call_id=CallId(f"c{number:02}"),
            tenant_id=TenantId(f"t{tenant}"),
            session_id=SessionId(f"t{tenant}s{session}"),
            expected=Work(output_tokens=tokens),
            rank=(rank,),
        )
        known[call.call_id] = call
        queue.add(call)
    for _ in range(min(num_served, len(calls))):
        queue.admit(next(queue.order()))
    foreseen = list(queue.order())
    assert sorted(foreseen) == sorted(call_id for call_id in known if call_id in queue)
    assert len(set(foreseen)) == len(foreseen) == len(queue)
    for session_id in {call.session_id for call in known.values()}:
        places = [(known[c].rank, c) for c in foreseen if known[c].session_id == session_id]
        assert places == sorted(places)
    kept = []
    while len(queue):
        kept.append(next(queue.order()))
        queue.admit(kept[-1])
    assert kept == foreseen


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=20), WEIGHTS)
def test_in_the_end_a_tenant_is_charged_what_it_was_served(
    costs: Sequence[tuple[int, int]], weights: Sequence[float]
) -> None:
    """F6: whatever was expected, and whatever progress was told in between."""
    tenant_id, session_id = TenantId("t0"), SessionId("s")
    queue = FairQueue(weight_of=lambda _: weights[0], cost=COST, turns=True)
    for number, (expected, _) in enumerate(costs):
        queue.add(
            WaitingCall(
                call_id=CallId(f"c{number}"),
                tenant_id=tenant_id,
                session_id=session_id,
                expected=Work(prompt_tokens=expected),
            )
        )
    for number, (_, actual) in enumerate(costs):
        queue.admit(CallId(f"c{number}"))
        queue.progress(CallId(f"c{number}"), Work(prompt_tokens=actual // 2))
        queue.finish(CallId(f"c{number}"), Work(prompt_tokens=actual))
    total = sum(actual for _, actual in costs)
    assert abs(queue.counter(tenant_id) - total / weights[0]) < SLACK
    assert abs(queue.session_counter(tenant_id, session_id) - total) < SLACK
