import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot.errors import InvalidError, MalformedError, ParrotError
from parrot.wire.json import MAX_VALUES, decode_json


def decode(body: bytes) -> object:
    return decode_json(body, max_depth=32, max_keys=1000)


def refusal(body: bytes) -> ParrotError:
    with pytest.raises(ParrotError) as caught:
        decode(body)
    return caught.value


@pytest.mark.parametrize(
    "body", [b"{", b"", b" ", b"{} x", b"{'a':1}", b'{"a":1,}', b'"a\nb"', b"nul", b'"x\x00"']
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    error = refusal(body)
    assert (type(error), error.code) == (MalformedError, "bad_json")


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-8-sig"]
)
def test_other_encodings_are_refused(encoding: str) -> None:
    error = refusal('{"template": "ü"}'.encode(encoding))
    assert (type(error), error.code) == (MalformedError, "not_utf8")


@pytest.mark.parametrize("body", ['"é"'.encode("latin-1"), b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xff"'])
def test_broken_utf8_is_refused(body: bytes) -> None:
    error = refusal(body)
    assert (type(error), error.code) == (MalformedError, "not_utf8")


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b"[" * 33 + b"]" * 33, b'{"a":' * 33 + b"1" + b"}" * 33, b"[" * 500 + b"]" * 500],
    ids=["bomb", "33-arrays", "33-objects", "500"],
)
def test_deep_nesting_is_refused(body: bytes) -> None:
    error = refusal(body)
    assert (type(error), error.code) == (MalformedError, "too_deep")


def test_the_deepest_nesting_allowed_is_taken() -> None:
    value = decode(b"[" * 32 + b"]" * 32)
    depth = 0
    while isinstance(value, list):
        value, depth = (value[0] if value else None), depth + 1
    assert depth == 32


@pytest.mark.parametrize("body", [b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}', b'[{"x":{"b":1,"c":2,"b":3}}]'])
def test_a_key_given_twice_is_refused(body: bytes) -> None:
    error = refusal(body)
    assert (type(error), error.code) == (MalformedError, "duplicate_key")


@pytest.mark.parametrize(
    "body", [b"[NaN]", b"Infinity", b'{"a":-Infinity}', b"9" * 5000, b"1." + b"0" * 5000]
)
def test_numbers_that_json_does_not_know_are_refused(body: bytes) -> None:
    error = refusal(body)
    assert (type(error), error.code) == (MalformedError, "bad_number")


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9223372036854775808", "-9007199254740993"])
def test_numbers_out_of_range_are_invalid_where_they_stand(number: str) -> None:
    error = refusal(b'{"calls":[{"temperature":' + number.encode() + b"}]}")
    assert (type(error), error.code, error.param) == (InvalidError, "invalid", "calls[0].temperature")


def test_numbers_in_range_keep_their_kind() -> None:
    assert (
        repr(decode(b"[9007199254740992, -0, 5.0, 1e3, 1e-400]")) == "[9007199254740992, 0, 5.0, 1000.0, 0.0]"
    )


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b'{"a":["x","\\ud800"]}', "invalid_unicode", "a[1]"),
        (b'{"a":{"\\uDFFF":1}}', "invalid_unicode", "a.'\\udfff'"),
        (b'"\\ude00\\ud83d"', "invalid_unicode", None),
        (b'{"a":{"b":"x\\u0000y"}}', "nul_not_allowed", "a.b"),
    ],
)
def test_text_that_cannot_be_stored_is_invalid_where_it_stands(
    body: bytes, code: str, param: str | None
) -> None:
    error = refusal(body)
    assert (type(error), error.code, error.param) == (InvalidError, code, param)


def test_surrogate_pairs_are_one_character() -> None:
    assert decode(b'"\\ud83d\\ude00 \\\\ud800"') == "😀 \\ud800"


def test_an_object_with_too_many_keys_is_invalid() -> None:
    error = refusal(json.dumps({str(i): 1 for i in range(1001)}).encode())
    assert (type(error), error.code) == (InvalidError, "too_many")


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({str(i): 1 for i in range(1_000_000)}).encode(),
        b"[" + b"[],[{}]," * (1 << 20) + b"1]",
        b"[" + b"1," * (4 << 20) + b"1]",
        b"[" * (8 << 20),
        b'["' + b'\\"' * (4 << 20) + b'"',
    ],
    ids=["keys", "containers", "numbers", "brackets", "unclosed"],
)
def test_hostile_bodies_are_refused_in_bounded_time(body: bytes) -> None:
    started = time.process_time()
    refusal(body)
    assert time.process_time() - started < 1.0


def test_ordinary_large_bodies_are_decoded_quickly() -> None:
    calls = [
        {"template": "[word], {word}, \n" * 600, "parameters": {"a": {"value": "é" * 900}}}
        for _ in range(650)
    ]
    body = json.dumps({"calls": calls}, ensure_ascii=False).encode()
    assert len(body) > 7 << 20
    started = time.process_time()
    value = decode(body)
    elapsed_s = time.process_time() - started
    assert value == {"calls": calls}
    assert elapsed_s < 1.0


def test_separators_within_strings_are_not_counted() -> None:
    text = ',[{"' * MAX_VALUES
    assert decode(json.dumps([text]).encode()) == [text]


_json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), inner, max_size=5
        )
    ),
    max_leaves=20,
)


@given(_json_values, st.booleans())
def test_what_can_be_sent_is_decoded_as_it_was(value: object, ascii_only: bool) -> None:
    assert (
        decode_json(json.dumps(value, ensure_ascii=ascii_only).encode(), max_depth=99, max_keys=99) == value
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_decoded_as_the_standard_decoder_would(body: bytes) -> None:
    with contextlib.suppress(MalformedError, InvalidError):
        assert decode(body) == json.loads(body)
