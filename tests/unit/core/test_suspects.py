"""Who is charged with the loss of an engine, and for how long."""

from typing import NoReturn

import pytest

from parrot.core.executor.fleet import Member
from parrot.core.executor.suspects import CLEARED_AFTER_TOKENS, MAX_UNCHARGED, Suspects
from parrot.core.sessions import CallRecord, OutputRecord
from parrot.errors import EngineError
from parrot.ports.engine import Progress
from parrot.types.ids import CallId, EngineId, VariableId
from parrot.wire.requests import CallSpec

ONE, TWO = EngineId("one"), EngineId("two")
CRASH = EngineError("it went down", code="engine_lost")
OUTSIDE = EngineError("it was killed", code="engine_lost", data={"outside": True})
UNDELIVERED = EngineError("it was gone", code="engine_lost", data={"delivered": False})


async def never(progress: Progress) -> NoReturn:
    raise EngineError("there is none", code="engine_start_failed")


def member(engine_id: EngineId) -> Member:
    return Member(engine_id=engine_id, start=never)


def record(name: str = "a") -> CallRecord:
    spec = CallSpec.model_validate({"template": "Say {{x}}", "parameters": {"x": {"output": {}}}})
    return CallRecord(call_id=CallId(name), name=name, spec=spec, model="m", submitted_at=0.0)


def generated(call: CallRecord, num_tokens: int) -> None:
    call.outputs[VariableId("v")] = OutputRecord(num_tokens=num_tokens)


@pytest.mark.parametrize("error", [OUTSIDE, UNDELIVERED, EngineError("bad", code="engine_bad_output")])
def test_who_cannot_have_done_it_is_not_charged(error: EngineError) -> None:
    call = record()
    assert not Suspects().charge(call, error)
    assert call.num_crashes == 0


def test_who_was_there_is_charged_each_time() -> None:
    suspects, call = Suspects(), record()
    assert [suspects.charge(call, CRASH), suspects.charge(call, CRASH)] == [True, True]
    assert call.num_crashes == 2


def test_losses_laid_to_others_are_bounded() -> None:
    suspects, call = Suspects(), record()
    assert not any(suspects.charge(call, OUTSIDE) for _ in range(MAX_UNCHARGED))
    assert suspects.charge(call, OUTSIDE)


def test_an_engine_takes_one_suspect_at_a_time_and_any_number_of_others() -> None:
    suspects, first, second, innocent = Suspects(), record("a"), record("b"), record("c")
    one = member(ONE)
    for call in (first, second):
        suspects.charge(call, CRASH)
    suspects.enter(first, one)
    suspects.enter(innocent, one)
    assert not suspects.may_join(second, ONE)
    assert suspects.may_join(second, TWO)
    assert suspects.may_join(innocent, ONE)
    assert suspects.num_free([ONE, TWO]) == 1
    suspects.leave(innocent, one)
    assert not suspects.may_join(second, ONE)
    suspects.leave(first, one)
    assert suspects.may_join(second, ONE)


def test_a_suspect_that_passed_the_place_where_it_was_lost_is_cleared_and_the_next_may_come() -> None:
    suspects, first, second, one = Suspects(), record("a"), record("b"), member(ONE)
    generated(first, 40)
    for call in (first, second):
        suspects.charge(call, CRASH)
    generated(first, 0)
    suspects.enter(first, one)
    generated(first, 40 + CLEARED_AFTER_TOKENS)
    assert not suspects.may_join(second, ONE)
    generated(first, 41 + CLEARED_AFTER_TOKENS)
    assert suspects.may_join(second, ONE)
    assert first.num_crashes == 0
    suspects.enter(second, one)
    suspects.leave(first, one)
    assert one.has_suspect
    suspects.leave(second, one)
    assert suspects.num_free([ONE]) == 1


def test_who_was_cleared_is_charged_anew() -> None:
    suspects, call = Suspects(), record()
    suspects.charge(call, CRASH)
    generated(call, 100)
    assert suspects.charge(call, CRASH)
    assert call.num_crashes == 1
