"""Errors as HTTP answers."""

import json

import pytest

from parrot.errors import (
    CODES,
    InvalidError,
    NotFoundError,
    OverLimitError,
    ParrotError,
    RequestError,
    TooLargeError,
    UnavailableError,
)
from parrot.server.errors import MAX_ENVELOPE_BYTES, envelope, error_response, status_of

EXPECTED = {
    "internal": 500,
    "bad_json": 400,
    "too_deep": 400,
    "bad_header": 400,
    "bad_event_id": 400,
    "unauthenticated": 401,
    "not_found": 404,
    "model_not_found": 404,
    "no_route": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "request_timeout": 408,
    "conflict": 409,
    "already_produced": 409,
    "request_in_flight": 409,
    "session_closed": 410,
    "session_expired": 410,
    "too_large": 413,
    "unsupported_media_type": 415,
    "invalid": 422,
    "unknown_field": 422,
    "cycle": 422,
    "fan_in": 422,
    "no_output": 422,
    "idempotency_mismatch": 422,
    "context_overflow": 422,
    "regex_unsupported": 422,
    "over_limit": 429,
    "unavailable": 503,
    "draining": 503,
    "engine_unavailable": 503,
    "store_unavailable": 503,
    "store_full": 503,
}


@pytest.mark.parametrize(("code", "status"), EXPECTED.items())
def test_a_code_has_the_status_the_catalogue_gives_it(code: str, status: int) -> None:
    assert status_of(CODES[code].error("m", code=code)) == status


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_an_error_status(code: str) -> None:
    assert 400 <= status_of(CODES[code].error("m", code=code)) <= 503


def test_an_envelope_carries_code_message_param_and_request_id() -> None:
    error = InvalidError("say less", code="unknown_field", param="calls[0].x")
    inside = json.loads(envelope(error, "req_1"))["error"]
    assert inside == {
        "code": "unknown_field",
        "message": "say less",
        "param": "calls[0].x",
        "request_id": "req_1",
        "number": "P1101",
        "retryable": False,
    }


def test_data_that_is_too_long_is_left_out_of_the_envelope() -> None:
    text = envelope(InvalidError("m", data={"list": ["x" * 100] * 100}), "req_1")
    assert len(text) <= MAX_ENVELOPE_BYTES
    assert "data" not in json.loads(text)["error"]


def test_text_that_cannot_be_encoded_does_not_break_the_envelope() -> None:
    error = InvalidError("bad \ud800", param="a\udfff" * 500, data={"x": "\ud800"})
    inside = json.loads(envelope(error, "req_1"))["error"]
    assert inside["message"] == "bad ?"
    assert len(inside["param"]) == 200


def test_overload_says_when_to_come_back() -> None:
    late = error_response(OverLimitError("m", data={"retry_after_s": 2.1}), "r")
    soon = error_response(UnavailableError("m"), "r")
    assert (late.headers["retry-after"], soon.headers["retry-after"]) == ("3", "1")


def test_a_refused_body_closes_the_connection_and_other_errors_do_not() -> None:
    refused = error_response(TooLargeError("m"), "r")
    missing = error_response(NotFoundError("m"), "r")
    assert refused.headers["connection"] == "close"
    assert "connection" not in missing.headers


def test_a_wrong_method_is_told_the_right_ones() -> None:
    error = RequestError("m", code="method_not_allowed", data={"allow": "GET, PUT"})
    assert error_response(error, "r").headers["allow"] == "GET, PUT"


def test_an_unknown_error_of_ours_is_500() -> None:
    assert status_of(ParrotError("m", code="from_the_future")) == 500
