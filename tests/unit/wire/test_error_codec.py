"""Errors cross the wire unchanged."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot.errors import CODES, ParrotError, error_from_code
from parrot.types.events import Failure
from parrot.wire.answers import ErrorBody, ErrorEnvelope
from parrot.wire.errors import failure_body, from_body, from_failure, to_body, to_failure

DATA = st.dictionaries(st.text(max_size=8), st.one_of(st.integers(-9, 9), st.text(max_size=8), st.booleans()))


def _over_the_wire(body: ErrorBody) -> ErrorBody:
    return ErrorEnvelope.model_validate_json(ErrorEnvelope(error=body).model_dump_json()).error


@pytest.mark.parametrize("code", CODES)
def test_every_class_arrives_as_it_was_raised(code: str) -> None:
    raised = error_from_code(code, "why", param="calls[1].template", data={"position": 7})
    arrived = from_body(_over_the_wire(to_body(raised, request_id="req_1")))
    assert type(arrived) is type(raised) is CODES[code].error
    assert (
        arrived.code,
        arrived.message,
        arrived.param,
        arrived.data,
        arrived.number,
        arrived.retryable,
    ) == (
        raised.code,
        raised.message,
        raised.param,
        raised.data,
        raised.number,
        raised.retryable,
    )


@given(code=st.sampled_from(sorted(CODES)), message=st.text(max_size=50), data=DATA)
def test_any_message_and_data_survive(code: str, message: str, data: dict[str, object]) -> None:
    raised = error_from_code(code, message, data=data)
    arrived = from_body(_over_the_wire(to_body(raised)))
    assert (arrived.message, arrived.data) == (raised.message, raised.data)


def test_the_body_says_what_a_client_needs_to_decide() -> None:
    body = to_body(error_from_code("over_limit", "later", data={"retry_after_s": 2}), request_id="req_1")
    assert json.loads(body.model_dump_json()) == {
        "code": "over_limit",
        "message": "later",
        "param": None,
        "request_id": "req_1",
        "number": "P2000",
        "retryable": True,
        "data": {"retry_after_s": 2},
    }


def test_a_code_of_a_newer_service_is_kept() -> None:
    arrived = from_body(ErrorBody(code="of_tomorrow", message="?"))
    assert type(arrived) is ParrotError
    assert arrived.code == "of_tomorrow"


@pytest.mark.parametrize("code", CODES)
def test_a_stored_failure_gives_the_same_error_and_body(code: str) -> None:
    raised = error_from_code(code, "why", data={"root": "call_failed"})
    failure = to_failure(raised)
    again = from_failure(failure)
    assert type(again) is type(raised)
    assert (again.code, again.message, again.data) == (raised.code, raised.message, raised.data)
    assert failure_body(failure) == to_body(raised)


def test_a_stored_failure_with_an_unknown_code_still_has_a_body() -> None:
    body = failure_body(Failure(code="of_tomorrow", message="?"))
    assert (body.code, body.number, body.retryable) == ("of_tomorrow", None, False)
