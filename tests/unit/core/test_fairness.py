"""Fair sharing: who is admitted next, and what changes it."""

from collections import Counter
from itertools import islice

import pytest

from parrot.core.admission import Admission, TenantTerms
from parrot.core.estimates import Work
from parrot.core.fairness import FairQueue, Rank, TokenCost, WaitingCall, jain_index
from parrot.core.limits import Limits
from parrot.ports.clock import SystemClock
from parrot.types.ids import CallId, SessionId, TenantId

ANNA, BERT, CARL = TenantId("anna"), TenantId("bert"), TenantId("carl")


class Queue(FairQueue):
    """A queue to which calls are added in few words; every prompt token costs 1."""

    def __init__(self, *, turns: bool = True, **weights: float) -> None:
        super().__init__(
            weight_of=lambda tenant_id: weights.get(tenant_id, 1.0),
            cost=TokenCost(prompt=1.0, output=2.0),
            turns=turns,
        )
        self.tenants: dict[CallId, TenantId] = {}

    def wait(
        self, call: str, tenant: TenantId, session: str = "s", tokens: int = 10, rank: Rank = ()
    ) -> None:
        self.tenants[CallId(call)] = tenant
        self.add(
            WaitingCall(
                call_id=CallId(call),
                tenant_id=tenant,
                session_id=SessionId(f"{tenant}_{session}"),
                expected=Work(prompt_tokens=tokens),
                rank=rank,
            )
        )

    def wait_many(self, num_calls: int, tenant: TenantId, session: str = "s", tokens: int = 10) -> None:
        for _ in range(num_calls):
            self.wait(f"{tenant}_{session}_{len(self.tenants)}", tenant, session, tokens)

    def admit_next(self, num_calls: int) -> list[CallId]:
        admitted = []
        for _ in range(num_calls):
            call_id = next(self.order())
            self.admit(call_id)
            admitted.append(call_id)
        return admitted

    def served(self, num_calls: int) -> Counter[TenantId]:
        return Counter(self.tenants[call_id] for call_id in self.admit_next(num_calls))


def test_tenants_take_turns_however_many_calls_they_have() -> None:
    queue = Queue()
    queue.wait_many(1000, ANNA)
    queue.wait_many(10, BERT)
    assert queue.served(20) == {ANNA: 10, BERT: 10}


def test_a_tenant_gains_nothing_by_opening_more_sessions() -> None:
    queue = Queue()
    for session in range(50):
        queue.wait_many(2, ANNA, f"s{session}")
    queue.wait_many(20, BERT)
    assert queue.served(40) == {ANNA: 20, BERT: 20}


def test_sessions_of_one_tenant_take_turns_however_wide_they_fan_out() -> None:
    queue = Queue()
    queue.wait_many(100, ANNA, "wide")
    queue.wait_many(5, ANNA, "narrow")
    admitted = queue.admit_next(10)
    assert sum("wide" in call_id for call_id in admitted) == 5


def test_large_calls_count_for_more_than_small_ones() -> None:
    queue = Queue()
    queue.wait_many(100, ANNA, tokens=40)
    queue.wait_many(100, BERT, tokens=10)
    assert queue.served(50) == {ANNA: 10, BERT: 40}


def test_a_weight_is_a_share() -> None:
    queue = Queue(anna=3.0, bert=1.0)
    queue.wait_many(100, ANNA)
    queue.wait_many(100, BERT)
    assert queue.served(40) == {ANNA: 30, BERT: 10}


def test_idle_time_is_no_credit() -> None:
    queue = Queue()
    queue.wait_many(300, ANNA)
    queue.admit_next(100)
    queue.wait_many(100, BERT)
    assert queue.served(20) == {ANNA: 10, BERT: 10}


def test_using_an_idle_service_is_no_debt() -> None:
    queue = Queue()
    queue.wait_many(100, ANNA)
    queue.admit_next(100)
    queue.wait_many(50, BERT)
    queue.wait_many(50, ANNA)
    assert queue.served(20) == {ANNA: 10, BERT: 10}


def test_a_call_that_cost_more_than_expected_is_charged_when_it_shows() -> None:
    queue = Queue()
    queue.wait_many(50, ANNA)
    queue.wait_many(50, BERT)
    queue.admit(CallId("anna_s_0"))
    assert queue.counter(ANNA) == 10
    queue.progress(CallId("anna_s_0"), Work(prompt_tokens=10, output_tokens=20))
    assert queue.counter(ANNA) == 50
    queue.progress(CallId("anna_s_0"), Work(prompt_tokens=10, output_tokens=5))
    assert queue.counter(ANNA) == 50
    queue.finish(CallId("anna_s_0"), Work(prompt_tokens=10, output_tokens=30))
    assert queue.counter(ANNA) == 70
    assert queue.session_counter(ANNA, SessionId("anna_s")) == 70
    assert queue.served(7) == {BERT: 7}


def test_a_call_that_cost_less_than_expected_is_paid_back() -> None:
    queue = Queue()
    queue.wait_many(50, ANNA, tokens=100)
    queue.wait_many(50, BERT, tokens=100)
    (first, _) = queue.admit_next(2)
    queue.finish(first, Work(prompt_tokens=10))
    queue.finish(first, Work(prompt_tokens=1000))
    assert queue.counter(ANNA) == 10
    assert queue.served(1) == {ANNA: 1}


def test_who_comes_meets_the_lowest_counter_also_after_it_was_paid_back() -> None:
    queue = Queue()
    queue.wait_many(50, ANNA, tokens=100)
    queue.wait_many(50, BERT, tokens=60)
    first, _ = queue.admit_next(2)
    queue.wait("c", CARL)
    assert (queue.counter(ANNA), queue.counter(BERT), queue.counter(CARL)) == (100, 60, 60)
    queue.remove(CallId("c"))
    queue.wait_many(1, CARL, tokens=50)
    queue.admit_next(1)
    queue.finish(first, Work(prompt_tokens=30))
    queue.wait("new", TenantId("dora"))
    assert queue.counter(TenantId("dora")) == 30


def test_within_a_session_rank_comes_first_and_then_arrival() -> None:
    queue = Queue()
    queue.wait("later", ANNA, rank=(1, 0.0))
    queue.wait("first", ANNA, rank=(0, 5.0))
    queue.wait("second", ANNA, rank=(0, 5.0))
    queue.wait("urgent", ANNA, rank=(0, 1.0))
    assert list(queue.order()) == ["urgent", "first", "second", "later"]


def test_a_call_that_was_removed_is_not_admitted_and_not_charged() -> None:
    queue = Queue()
    queue.wait("a", ANNA)
    queue.wait("b", ANNA)
    queue.remove(CallId("a"))
    queue.remove(CallId("a"))
    assert list(queue.order()) == ["b"]
    assert (len(queue), CallId("a") in queue, queue.counter(ANNA)) == (1, False, 0.0)


def test_the_order_is_that_of_admitting_one_by_one_and_admits_nothing() -> None:
    queue = Queue(anna=2.0)
    queue.wait_many(9, ANNA, "x", tokens=7)
    queue.wait_many(4, ANNA, "y", tokens=30)
    queue.wait_many(5, BERT, tokens=11)
    queue.wait_many(1, CARL, tokens=90)
    foreseen = list(queue.order())
    assert queue.counter(ANNA) == 0
    assert list(islice(queue.order(), 3)) == foreseen[:3]
    assert queue.admit_next(19) == foreseen


def test_a_closed_session_leaves_nothing_but_what_its_tenant_owes() -> None:
    queue = Queue()
    queue.wait("a", ANNA)
    queue.admit(CallId("a"))
    queue.forget(ANNA, SessionId("anna_s"))
    queue.finish(CallId("a"), Work(prompt_tokens=50))
    assert queue.session_counter(ANNA, SessionId("anna_s")) == 0
    assert queue.counter(ANNA) == 50
    queue.wait("b", ANNA, "t")
    assert queue.session_counter(ANNA, SessionId("anna_t")) == 10


def test_a_call_that_runs_again_is_charged_again() -> None:
    queue = Queue()
    queue.wait("a", ANNA)
    queue.admit(CallId("a"))
    queue.finish(CallId("a"), Work(prompt_tokens=4))
    queue.wait("a", ANNA)
    queue.admit(CallId("a"))
    assert queue.counter(ANNA) == 14


def test_a_weight_counts_from_when_it_is_changed() -> None:
    weights = {"anna": 1.0}
    queue = FairQueue(weight_of=lambda tenant_id: weights.get(tenant_id, 1.0), cost=TokenCost())
    for number, tenant_id in enumerate([ANNA, BERT] * 60):
        queue.add(
            WaitingCall(
                call_id=CallId(f"{tenant_id}_{number}"),
                tenant_id=tenant_id,
                session_id=SessionId(f"{tenant_id}_s"),
                expected=Work(prompt_tokens=10),
            )
        )

    def serve(num_calls: int) -> Counter[str]:
        served: Counter[str] = Counter()
        for _ in range(num_calls):
            call_id = next(queue.order())
            queue.admit(call_id)
            served[call_id.split("_")[0]] += 1
        return served

    assert serve(20) == {"anna": 10, "bert": 10}
    weights["anna"] = 3.0
    assert serve(40) == {"anna": 30, "bert": 10}


def test_without_turns_a_tenants_calls_go_by_rank_whatever_their_sessions_were_served() -> None:
    queue = Queue(turns=False)
    queue.wait("long_1", ANNA, "long", tokens=1000, rank=(1.0,))
    queue.wait("long_2", ANNA, "long", tokens=1000, rank=(2.0,))
    queue.wait("new", ANNA, "new", tokens=10, rank=(3.0,))
    queue.wait("other", BERT, "s", tokens=10, rank=(9.0,))
    assert queue.admit_next(4) == ["long_1", "other", "long_2", "new"]
    queue.forget(ANNA, SessionId("anna_long"))
    assert queue.counter(ANNA) == 2010


def test_tenants_are_served_by_the_weights_of_their_terms_however_many_calls_they_send() -> None:
    admission = Admission(Limits(), SystemClock())
    admission.update({ANNA: TenantTerms(weight=3.0)}, metered=True)
    queue = FairQueue(weight_of=admission.weight_of)
    for tenant_id, num_calls, tokens in ((ANNA, 300, 50), (BERT, 900, 10), (CARL, 100, 200)):
        for number in range(num_calls):
            queue.add(
                WaitingCall(
                    call_id=CallId(f"{tenant_id}_{number}"),
                    tenant_id=tenant_id,
                    session_id=SessionId(f"{tenant_id}_{number % 7}"),
                    expected=Work(prompt_tokens=tokens),
                )
            )
    served: Counter[str] = Counter()
    while sum(served.values()) < 20_000:
        call_id = next(queue.order())
        queue.admit(call_id)
        tenant = call_id.split("_")[0]
        served[tenant] += {"anna": 50, "bert": 10, "carl": 200}[tenant]
    shares = [served["anna"] / 3.0, served["bert"], served["carl"]]
    assert jain_index(shares) > 0.999


@pytest.mark.parametrize(
    ("shares", "index"),
    [([], 1.0), ([0, 0], 1.0), ([5, 5, 5, 5], 1.0), ([8, 0, 0, 0], 0.25), ([2, 1], 0.9)],
)
def test_jains_index_tells_even_from_uneven(shares: list[float], index: float) -> None:
    assert jain_index(shares) == pytest.approx(index)


def test_ten_thousand_waiting_calls_are_admitted_in_little_time() -> None:
    queue = Queue()
    for session in range(100):
        queue.wait_many(100, ANNA if session % 2 else BERT, f"s{session}")
    assert jain_index(list(queue.served(10_000).values())) == 1.0
    assert len(queue) == 0
