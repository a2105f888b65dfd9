"""The error tree itself."""

import copy
import pickle

import pytest

from parrot.errors import (
    CODES,
    MAX_MESSAGE_CHARS,
    CallError,
    InvalidError,
    ParrotError,
    RequestError,
    TemplateError,
    WaitTimeoutError,
    error_from_code,
    fault_trace,
)


@pytest.mark.parametrize("code", CODES)
def test_a_code_gives_its_class_number_and_data(code: str) -> None:
    error = error_from_code(code, "what went wrong", param="calls[0]", data={"limit": 3})
    assert type(error) is CODES[code].error
    assert (error.code, error.number) == (code, CODES[code].number)
    assert (error.message, error.param, error.data) == ("what went wrong", "calls[0]", {"limit": 3})


def test_an_unknown_code_is_kept_in_a_plain_error() -> None:
    error = error_from_code("from_a_newer_service", "later")
    assert type(error) is ParrotError
    assert (error.code, error.number) == ("from_a_newer_service", "P0000")


def test_an_error_without_a_code_takes_its_class_default() -> None:
    assert TemplateError("no").code == "bad_placeholder"


@pytest.mark.parametrize("make_copy", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_keep_everything(make_copy: object) -> None:
    error = CallError("no match", code="transform_no_match", param="x", data={"pattern": "a+"})
    assert callable(make_copy)
    twin = make_copy(error)
    assert type(twin) is CallError
    assert (twin.code, twin.message, twin.param, twin.data) == (
        error.code,
        error.message,
        error.param,
        error.data,
    )


def test_a_long_message_is_cut() -> None:
    assert len(ParrotError("x" * 10_000).message) == MAX_MESSAGE_CHARS


def test_an_error_reads_as_its_message_and_code() -> None:
    assert str(CallError("it failed")) == "it failed [call_failed]"


def test_data_of_an_error_is_its_own() -> None:
    given = {"a": 1}
    error = ParrotError("x", data=given)
    given["a"] = 2
    assert error.data == {"a": 1}


def test_a_handler_for_a_broad_class_catches_the_narrow_one() -> None:
    with pytest.raises(RequestError) as caught:
        raise TemplateError("no")
    assert isinstance(caught.value, InvalidError)


def test_a_wait_that_times_out_is_also_pythons_timeout() -> None:
    assert isinstance(WaitTimeoutError("too late"), TimeoutError)


def test_numbers_are_unique_and_grow_with_the_table() -> None:
    numbers = [info.number for info in CODES.values()]
    assert len(set(numbers)) == len(numbers)
    assert all(number[0] == "P" and len(number) == 5 and number[1:].isdigit() for number in numbers)


def test_a_fault_is_told_with_its_places_and_causes_and_without_its_words() -> None:
    words = ["canary-cause", "canary-group", "canary-inner"]
    try:
        try:
            raise KeyError(words[0])
        except KeyError as cause:
            raise ExceptionGroup(words[1], [ValueError(words[2])]) from cause
    except ExceptionGroup as error:
        told = fault_trace(error)
    assert "canary" not in told
    assert told.index("KeyError\n") < told.index("ExceptionGroup\n") < told.index("ValueError\n")
    assert __file__ in told
