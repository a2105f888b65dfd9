"""Headers and query."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from parrot.errors import InvalidError, MalformedError, ParrotError, RequestError
from parrot.server.parameters import (
    HEADERS,
    idempotency_key,
    last_event_id,
    objective,
    page,
    query_of,
    require_event_stream_accepted,
    single_headers,
    wait_s,
)


def request_of(query: str = "", headers: Mapping[str, bytes] | None = None) -> Request:
    raw = [(name.encode(), value) for name, value in (headers or {}).items()]
    scope = {"type": "http", "query_string": query.encode(), "headers": raw, HEADERS: dict(raw)}
    return Request(scope)


@pytest.mark.parametrize("text", ["-1", "abc", "nan", "inf", "", " 1", "1_0", "0x10", "1e999"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        wait_s({"wait": text}, 60.0)
    assert caught.value.param == "wait"


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("1.5", 1.5), ("1e9", 60), ("60.1", 60), ("2e1", 20)]
)
def test_a_wait_is_at_most_the_longest_long_poll(text: str, seconds: float) -> None:
    assert wait_s({"wait": text}, 60.0) == seconds


def test_without_a_wait_the_answer_comes_at_once() -> None:
    assert wait_s({}, 60.0) == 0.0


def test_an_objective_is_one_of_two_words() -> None:
    assert objective({"objective": "latency"}) == "latency"
    assert objective({}) is None
    with pytest.raises(InvalidError):
        objective({"objective": "admin"})


def test_a_page_has_1_to_1000_entries() -> None:
    assert page({}) == (100, None)
    assert page({"limit": "7", "after": "ses_1"}) == (7, "ses_1")
    for text in ("0", "1001", "-1", "x", "1.0"):
        with pytest.raises(InvalidError):
            page({"limit": text})


def test_a_query_field_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(InvalidError) as caught:
        query_of(request_of("wiat=3"), "wait")
    assert (caught.value.code, caught.value.param) == ("unknown_field", "wiat")


def test_a_query_field_given_twice_is_an_error() -> None:
    with pytest.raises(InvalidError):
        query_of(request_of("wait=1&wait=2"), "wait")


@given(st.text(max_size=300))
def test_any_query_is_understood_or_refused(text: str) -> None:
    try:
        fields = query_of(request_of(text.encode(errors="replace").decode()), "wait")
    except (ParrotError, UnicodeEncodeError):
        return
    assert set(fields) <= {"wait"}


@pytest.mark.parametrize("key", [b"", b"x" * 256, "ключ".encode(), b"a b", b"a\x7f", b"a\n"])
def test_an_idempotency_key_is_1_to_255_visible_ascii_characters(key: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        idempotency_key(request_of(headers={"idempotency-key": key}))
    assert caught.value.code == "bad_header"


def test_a_good_idempotency_key_is_taken_as_it_is() -> None:
    assert idempotency_key(request_of(headers={"idempotency-key": b"x" * 255})) == "x" * 255
    assert idempotency_key(request_of()) is None


def test_an_event_id_that_cannot_be_ours_is_refused() -> None:
    for value in (b"x" * 257, b"\xff"):
        with pytest.raises(MalformedError) as caught:
            last_event_id(request_of(headers={"last-event-id": value}))
        assert caught.value.code == "bad_event_id"
    assert last_event_id(request_of(headers={"last-event-id": b"7"})) == "7"


@pytest.mark.parametrize(
    "accept", [b"text/html", b"application/json", b"text/event-stream;q=0", b"*/*; q=0.0"]
)
def test_a_client_that_does_not_take_event_streams_gets_none(accept: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        require_event_stream_accepted(request_of(headers={"accept": accept}))
    assert caught.value.code == "not_acceptable"


@pytest.mark.parametrize("accept", [b"*/*", b"text/html, text/event-stream;q=0.1", b"TEXT/*"])
def test_a_client_that_takes_event_streams_is_served(accept: bytes) -> None:
    require_event_stream_accepted(request_of(headers={"accept": accept}))
    assert "accept" in request_of(headers={"accept": accept}).headers


@pytest.mark.parametrize(
    "raw",
    [
        [(b"host", b"a"), (b"host", b"a")],
        [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")],
        [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")],
        [(b"host", b"evil/?")],
        [(b"host", b"a#")],
        [(b"host", b"")],
        [(b"host", b"a@b")],
    ],
)
def test_headers_that_can_be_read_in_two_ways_are_refused(raw: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(MalformedError) as caught:
        single_headers(raw)
    assert caught.value.code == "bad_header"


@pytest.mark.parametrize("host", [b"localhost", b"127.0.0.1:8321", b"[::1]:8321", b"a-b.example_c.org"])
def test_a_host_with_or_without_a_port_is_taken(host: bytes) -> None:
    assert single_headers([(b"host", host), (b"accept", b"x"), (b"accept", b"y")]) == {b"host": host}
