"""What a tenant may still ask for, on a clock that is set by hand."""

import logging

import pytest

from parrot.core.admission import MAX_RETRY_AFTER_S, WARN_INTERVAL_S, Admission, TenantTerms
from parrot.core.limits import TENANT_LIMITS, Limits
from parrot.errors import OverLimitError, ParrotError, UnavailableError
from parrot.ports.clock import SystemClock
from parrot.ports.store import Appended
from parrot.types.events import CallFinished, CallPlaced, Event, SessionClosed
from parrot.types.ids import DEFAULT_TENANT, CallId, EngineId, SessionId, TenantId

A, B = TenantId("a"), TenantId("b")
SID = SessionId("ses_1")
ONE, TWO = CallId("call_1"), CallId("call_2")


class Clock(SystemClock):
    seconds = 100.0

    def now_s(self) -> float:
        return self.seconds


def admission(clock: Clock | None = None, *, metered: bool = True, **limits: float) -> Admission:
    made = Admission(Limits(**limits), clock or Clock())  # type: ignore[arg-type]
    made.update({}, metered=metered)
    return made


def finished(call_id: CallId, *, prompt: int, shared: int, output: int, attempt: int = 1) -> Event:
    return CallFinished(
        session_id=SID,
        call_id=call_id,
        attempt=attempt,
        outcome="done",
        num_prompt_tokens=prompt,
        num_shared_tokens=shared,
        num_output_tokens=output,
        wall_s=0.0,
    )


def placed(call_id: CallId) -> Event:
    return CallPlaced(
        session_id=SID,
        call_id=call_id,
        attempt=1,
        engine_id=EngineId("e"),
        why="",
        num_shared_tokens=0,
        wall_s=0.0,
    )


def see(gate: Admission, *events: Event) -> None:
    for event in events:
        gate.see(Appended(seq=1, event=event))


def refused_for_s(gate: Admission, tenant: TenantId = A) -> float:
    """How long a refused submission is to wait; 0 when it is taken."""
    try:
        gate.check_submission(tenant)
    except ParrotError as error:
        wait_s = error.data["retry_after_s"]
        assert isinstance(wait_s, float)
        return wait_s
    return 0.0


def test_requests_come_in_a_burst_and_then_at_the_rate() -> None:
    clock = Clock()
    gate = admission(clock, requests_per_s=2.0, requests_burst=3)
    for _ in range(3):
        gate.check_request(A)
    with pytest.raises(OverLimitError) as caught:
        gate.check_request(A)
    assert caught.value.data == {"limit": "requests_per_s", "retry_after_s": 0.5}
    gate.check_request(B)
    clock.seconds += 0.5
    gate.check_request(A)


def test_what_a_submission_can_cost_is_taken_at_once_and_what_it_did_not_is_put_back() -> None:
    clock = Clock()
    gate = admission(clock, tokens_per_minute=600)
    gate.reserve(A, SID, {ONE: 1000.0, TWO: 200.0})
    assert refused_for_s(gate) == pytest.approx(60.1)
    assert refused_for_s(gate, B) == 0
    see(gate, placed(ONE), finished(ONE, prompt=300, shared=200, output=50))
    assert refused_for_s(gate) == 0
    see(gate, finished(ONE, prompt=300, shared=200, output=50))
    see(gate, placed(TWO), finished(TWO, prompt=5000, shared=0, output=0))
    assert refused_for_s(gate) > 60 * 5


def test_a_submission_beyond_a_minutes_share_is_taken_and_the_rate_holds() -> None:
    clock = Clock()
    gate = admission(clock, tokens_per_minute=600)
    taken = 0
    for _ in range(600):
        if refused_for_s(gate) == 0:
            call_id = CallId(f"call_{taken}")
            gate.reserve(A, SID, {call_id: 2000.0})
            see(gate, placed(call_id), finished(call_id, prompt=1500, shared=0, output=500))
            taken += 1
        clock.seconds += 1
    assert taken == 4  # ten minutes of 600 and a full bucket are 6,600 tokens; the last is in debt


def test_what_was_not_accepted_costs_nothing() -> None:
    gate = admission(tokens_per_minute=600)
    gate.reserve(A, SID, {ONE: 5000.0})
    gate.release(SID, {ONE: 5000.0})
    assert refused_for_s(gate) == 0


def test_when_a_session_is_closed_what_never_ran_costs_nothing() -> None:
    gate = admission(tokens_per_minute=600)
    gate.reserve(A, SID, {ONE: 500.0, TWO: 5000.0})
    see(gate, placed(ONE), SessionClosed(session_id=SID, reason="deleted", wall_s=0.0))
    assert refused_for_s(gate) == 0
    gate.reserve(A, SID, {ONE: 150.0})
    assert refused_for_s(gate) > 0


def test_while_as_many_calls_wait_as_may_nothing_more_is_taken() -> None:
    gate = admission(max_queued_calls=2, max_queued_calls_total=3, tokens_per_minute=0)
    for _ in range(2):
        gate.occupancy.enter(A)
    with pytest.raises(OverLimitError) as own:
        gate.check_submission(A)
    assert own.value.data["limit"] == "max_queued_calls"
    gate.check_submission(B)
    gate.occupancy.enter(B)
    with pytest.raises(UnavailableError) as everybodys:
        gate.check_submission(B)
    assert everybodys.value.code == "overloaded"
    gate.occupancy.leave(A)
    gate.check_submission(A)


def test_how_long_to_wait_follows_from_how_fast_calls_end() -> None:
    clock = Clock()
    gate = admission(clock, max_queued_calls=1, tokens_per_minute=0)
    for _ in range(20):
        gate.occupancy.enter(A)
    assert refused_for_s(gate) == MAX_RETRY_AFTER_S
    for number in range(100):
        clock.seconds += 0.5
        see(gate, finished(CallId(f"c{number}"), prompt=0, shared=0, output=0))
    assert refused_for_s(gate) == pytest.approx(20 / 2, rel=0.1)


def test_streams_are_counted_while_they_last() -> None:
    gate = admission(max_streams=1)
    with gate.streaming(A), gate.streaming(B), pytest.raises(OverLimitError), gate.streaming(A):
        pass
    with gate.streaming(A):
        assert gate.limits_of(A).max_streams == 1


def test_without_keys_only_open_sessions_are_counted() -> None:
    gate = admission(
        metered=False,
        requests_per_s=1,
        requests_burst=1,
        tokens_per_minute=1,
        max_queued_calls=1,
        max_streams=1,
    )
    for number in range(100):
        gate.check_request(DEFAULT_TENANT)
        gate.reserve(DEFAULT_TENANT, SID, {CallId(str(number)): 1000.0})
        gate.check_submission(DEFAULT_TENANT)
        gate.occupancy.enter(DEFAULT_TENANT)
    with gate.streaming(DEFAULT_TENANT), gate.streaming(DEFAULT_TENANT):
        assert gate.most_running(DEFAULT_TENANT) is None
    with pytest.raises(OverLimitError):
        gate.check_sessions(DEFAULT_TENANT, 64)


def test_a_tenants_own_limits_hold_at_once_and_for_it_alone() -> None:
    gate = admission(requests_per_s=1.0, requests_burst=1, max_running_calls=4)
    gate.check_request(A)
    gate.update(
        {A: TenantTerms(weight=2.0, limits={"requests_burst": 5, "max_running_calls": 0})}, metered=True
    )
    assert (gate.most_running(A), gate.most_running(B)) == (None, 4)
    assert (gate.weight_of(A), gate.weight_of(B)) == (2.0, 1.0)
    assert (gate.limits_of(A).requests_burst, gate.limits_of(B).requests_burst) == (5, 1)


def test_every_limit_of_a_tenant_is_a_limit() -> None:
    assert set(Limits.__dataclass_fields__) >= TENANT_LIMITS


def test_the_log_warns_before_a_limit_is_reached_but_not_all_the_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    clock = Clock()
    gate = admission(clock, max_sessions=10)
    for number in (1, 7, 8, 9):
        gate.check_sessions(A, number)
    assert [record.getMessage() for record in caplog.records] == [
        "tenant a uses 8 of limits.max_sessions = 10"
    ]
    clock.seconds += WARN_INTERVAL_S
    gate.check_sessions(A, 9)
    assert len(caplog.records) == 2


def test_a_tenant_with_its_share_of_the_engines_memory_gets_no_more_while_others_wait() -> None:
    gate = Admission(Limits(max_running_calls=32, max_kv_share=0.5), Clock(), lambda: 1000)
    gate.update({}, metered=True)
    busy, other = A, B
    for _ in range(5):
        gate.occupancy.start(busy, 100)
    assert gate.most_running(busy) == 32
    gate.occupancy.enter(busy)
    assert gate.most_running(busy) == 32
    gate.occupancy.enter(other)
    assert gate.most_running(busy) == 5
    assert gate.most_running(other) == 32
    gate.occupancy.end(busy, 100)
    assert gate.most_running(busy) == 32
    gate.update({busy: TenantTerms(limits={"max_kv_share": 0.3})}, metered=True)
    assert gate.most_running(busy) == 4
    gate.update({}, metered=False)
    assert gate.most_running(busy) is None
