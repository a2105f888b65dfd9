"""The blocking faces drive the same flow, and end with their block."""

import os
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fake_service import FAST, FakeService, sse

import parrot
from parrot import Input, Output, SyncSession, SyncVariable, native_function, semantic_function
from parrot.errors import CallError, UnreachableError, UsageError


@semantic_function
def write_code(task: Input, code: Output) -> None:
    """Write {{task}}: {{code}}"""


@semantic_function
def review(code: Input, praise: Output, blame: Output) -> None:
    """Review {{code}}: good {{praise}}, bad {{blame}}"""


@native_function
def join(parts: list[str]) -> str:
    return "+".join(parts)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def session(service: FakeService) -> Iterator[SyncSession]:
    transport = httpx2.MockTransport(service)
    with parrot.connect_sync("http://127.0.0.1:1", transport=transport, retry=FAST) as opened:
        yield opened


def num_portals() -> int:
    return sum(thread.name == "parrot-session" for thread in threading.enumerate())


def test_functions_return_blocking_variables(session: SyncSession, service: FakeService) -> None:
    code: Any = session.call(write_code, task="a")
    assert isinstance(code, SyncVariable)
    result = session.call(review, code=code)
    assert (result.blame.get(), code.get(timeout_s=5), code.text()) == ("BLAME", "CODE", "CODE")
    assert session.gather(*result) == ("PRAISE", "BLAME")
    assert code.id == f"id_{code.name}"
    assert len(service.deleted) == 0


def test_bare_calls_go_to_the_session_of_the_thread(service: FakeService) -> None:
    transport = httpx2.MockTransport(service)
    with parrot.connect_sync("http://127.0.0.1:1", transport=transport):
        code: Any = write_code(task="a")
        assert code.get() == "CODE"
    with pytest.raises(UsageError, match="outside any session"):
        write_code(task="a")


def test_batch_goes_in_one_request(session: SyncSession, service: FakeService) -> None:
    with session.batch():
        codes = [session.call(write_code, task=task) for task in "abc"]
        joined = session.call(join, codes)
    assert joined.get() == "CODE+CODE+CODE"
    assert [len(submission["calls"]) for submission in service.submissions] == [3]


def test_batch_whose_block_raises_sends_nothing(session: SyncSession, service: FakeService) -> None:
    with pytest.raises(KeyError), session.batch():  # noqa: PT012
        code = session.call(write_code, task="a")
        with session.batch():
            session.call(write_code, task="b")
        raise KeyError("x")
    with pytest.raises(UsageError, match="given up"):
        code.get()
    assert service.submissions == []


def test_stream_and_input_variables_block(session: SyncSession, service: FakeService) -> None:
    ready = {"variable_id": "v", "name": None, "state": "ready", "value": "ab"}
    service.streams = [sse(("delta", {"attempt": 1, "text": "a"}, "1"), ("ready", ready, "2"))]
    document = session.variable("document")
    code = session.call(write_code, task=document)
    document.set("text")
    assert list(code.stream()) == ["a", "b"]
    assert document.get() == "text"
    assert session.cancel(code) == ("call_1",)


def test_errors_arrive_as_they_are(session: SyncSession, service: FakeService) -> None:
    service.answers["code"] = {"state": "failed", "error": {"code": "deadline", "message": "late"}}
    with pytest.raises(CallError) as caught:
        session.call(write_code, task="a").get()
    assert caught.value.code == "deadline"
    with pytest.raises(TypeError, match="takes a str"):
        session.call(write_code, task=5)


def test_body_that_raises_deletes_the_session_and_ends_the_thread(service: FakeService) -> None:
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt),
        parrot.connect_sync("http://127.0.0.1:1", transport=httpx2.MockTransport(service)) as session,
    ):
        session.call(write_code, task="a").get()
        raise KeyboardInterrupt
    assert service.deleted == ["ses_1"]
    assert num_portals() == 0


def test_connection_that_fails_leaves_no_thread() -> None:
    with pytest.raises(UnreachableError), parrot.connect_sync("http://127.0.0.1:9") as session:
        session.open()
    assert num_portals() == 0


def test_use_after_close_is_refused_at_once(service: FakeService) -> None:
    with parrot.connect_sync("http://127.0.0.1:1", transport=httpx2.MockTransport(service)) as session:
        code = session.call(write_code, task="a")
        pieces = code.stream()
    for use in (code.get, session.graph, lambda: session.call(write_code, task="b"), lambda: next(pieces)):
        with pytest.raises(UsageError, match="closed"):
            use()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_use_across_a_fork_is_refused_without_hanging(session: SyncSession) -> None:
    code = session.call(write_code, task="a")
    child = os.fork()
    if child == 0:
        try:
            code.get()
        except UsageError:
            os._exit(7)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert code.get() == "CODE"
