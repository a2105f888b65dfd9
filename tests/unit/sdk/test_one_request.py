"""How many requests a program costs, and what becomes of a request whose answer breaks off."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fake_service import FAST, FakeService, error_response, open_session, session_view, sse

import parrot
from parrot import Input, Output, SyncSession, semantic_function
from parrot.errors import CallError, InvalidError, ParrotError, UsageError


@semantic_function
def write_code(task: Input, code: Output) -> None:
    """Write {{task}}: {{code}}"""


@semantic_function
def write_test(code: Input, test: Output) -> None:
    """Test {{code}}: {{test}}"""


@pytest.fixture
def service() -> FakeService:
    return FakeService()


def before_leaving(service: FakeService) -> list[str]:
    return [f"{method} {path}" for method, path in service.requests if method != "DELETE"]


async def test_one_call_costs_one_request(service: FakeService) -> None:
    async with open_session(service) as session:
        assert await write_code(task="a") == "CODE"
        assert session.id == "ses_1"
    assert service.requests == [("POST", "/v1/run"), ("DELETE", "/v1/sessions/ses_1")]


async def test_a_chain_in_a_batch_over_a_given_text_costs_one_request(service: FakeService) -> None:
    async with open_session(service, objective="latency") as session:
        async with session.batch():
            code = write_code(task=session.variable("task", "a game"))
            tests = [write_test(code) for _ in range(3)]
        assert await session.gather(*tests, objective="latency") == ("TEST",) * 3
    assert before_leaving(service) == ["POST /v1/run"]
    assert [one["variable"] for one in service.follows[0]] == [test.name for test in tests]
    assert service.puts == {"task": "a game"}


async def test_each_turn_of_a_conversation_costs_one_request(service: FakeService) -> None:
    async with open_session(service):
        for _ in range(3):
            assert await write_code(task="a") == "CODE"
    assert before_leaving(service) == ["POST /v1/run"] + ["POST /v1/sessions/ses_1/run"] * 2


async def test_how_values_are_waited_for_is_said_with_the_calls(service: FakeService) -> None:
    async with open_session(service) as session:
        code = write_code(task="a")
        test = write_test(code)
        await session.gather(code, test, objective="throughput")
    assert service.follows == [
        [{"variable": one.name, "objective": "throughput"} for one in (code, test)],
    ]


async def test_a_value_waited_for_otherwise_than_was_said_is_asked_for(service: FakeService) -> None:
    async with open_session(service) as session:
        async with session.batch():
            code = write_code(task="a")
        assert await code.get(objective="throughput") == "CODE"
    assert [poll["objective"] for poll in service.polls] == ["throughput"]


async def test_a_session_without_calls_costs_nothing(service: FakeService) -> None:
    async with open_session(service) as session:
        with pytest.raises(UsageError, match="opened with its first call"):
            _ = session.id
    assert service.requests == []


async def test_a_session_can_be_opened_before_its_calls(service: FakeService) -> None:
    async with open_session(service, name="early") as session:
        assert await session.open() == "ses_1"
        assert await session.open() == session.id
    assert service.requests == [("POST", "/v1/run"), ("DELETE", "/v1/sessions/ses_1")]


async def test_an_opening_under_way_is_waited_for_so_that_it_can_be_deleted(service: FakeService) -> None:
    service.submit_gate = gate = asyncio.Event()
    async with open_session(service):
        write_code(task="a")
        await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.05, gate.set)
    assert service.deleted == ["ses_1"]


async def test_the_first_request_that_fails_does_not_keep_the_next_from_opening(service: FakeService) -> None:
    service.fail("POST /v1/run", error_response(422, "cycle"))
    async with open_session(service):
        with pytest.raises(parrot.errors.ParrotError):
            await write_code(task="a")
        assert await write_code(task="b") == "CODE"
    assert before_leaving(service) == ["POST /v1/run"] * 2


async def test_values_that_are_not_told_are_asked_for(service: FakeService) -> None:
    service.tells = False
    async with open_session(service):
        assert await write_code(task="a") == "CODE"
    assert len(service.polls) == 1


async def test_an_error_in_the_answer_is_not_an_error_of_the_call(service: FakeService) -> None:
    def break_off(request: httpx2.Request) -> httpx2.Response:
        name = request.read().decode().partition('"variable":"')[2].partition('"')[0]
        service.variables[name] = {"state": "ready", "value": "late"}
        view = {"variable_id": f"id_{name}", "name": name}
        call = {"call_id": "call_0", "name": "write_code_1", "outputs": {"code": view}}
        accepted = {"session": session_view({}), "variables": [], "calls": [call]}
        error = {"error": {"code": "draining", "message": "stopping"}}
        return sse(("accepted", accepted, ""), ("error", error, ""))

    service.fail("POST /v1/run", break_off)
    async with open_session(service):
        assert await write_code(task="a") == "late"
    assert len(service.polls) == 1


async def test_a_failure_that_is_told_is_raised(service: FakeService) -> None:
    service.answers["code"] = {"state": "failed", "error": {"code": "deadline", "message": "late"}}
    async with open_session(service):
        with pytest.raises(CallError) as caught:
            await write_code(task="a")
    assert caught.value.code == "deadline"
    assert service.polls == []


async def test_text_that_is_streamed_at_once_comes_with_the_answer(service: FakeService) -> None:
    async with open_session(service):
        code = write_code(task="a")
        assert [piece async for piece in code.stream(objective="latency")] == ["CODE"]
    assert before_leaving(service) == ["POST /v1/run"]
    assert service.follows == [[{"variable": code.name, "objective": "latency", "deltas": True}]]


@pytest.fixture
def blocking(service: FakeService) -> Iterator[SyncSession]:
    transport = httpx2.MockTransport(service)
    with parrot.connect_sync("http://127.0.0.1:1", transport=transport, retry=FAST) as opened:
        yield opened


def test_a_blocking_program_costs_one_request_too(blocking: SyncSession, service: FakeService) -> None:
    blocking.open()
    code: Any = blocking.call(write_code, task="a")
    assert code.get() == "CODE"
    assert before_leaving(service) == ["POST /v1/run", "POST /v1/sessions/ses_1/run"]
    assert [one["variable"] for one in service.follows[1]] == [code.name]


async def test_an_answer_that_begins_with_an_error_that_passes_is_asked_for_again(
    service: FakeService,
) -> None:
    error = {"error": {"code": "engine_unavailable", "message": "no engine is up yet", "retryable": True}}
    service.fail("POST /v1/run", sse(("error", error, "")), times=2)
    async with open_session(service):
        assert await write_code(task="a") == "CODE"
    assert before_leaving(service) == ["POST /v1/run"] * 3


async def test_an_answer_that_begins_with_an_error_that_stays_is_raised(service: FakeService) -> None:
    error = {"error": {"code": "invalid", "message": "no such thing"}}
    service.fail("POST /v1/run", sse(("error", error, "")))
    async with open_session(service):
        with pytest.raises(InvalidError, match="no such thing"):
            await write_code(task="a")
    assert before_leaving(service) == ["POST /v1/run"]


async def test_calls_join_each_other_although_somebody_waited_while_others_were_on_their_way(
    service: FakeService,
) -> None:
    service.submit_gate = asyncio.Event()
    async with open_session(service) as session:
        session.linger(60.0)
        sent = write_code(task="a")
        waiting = [asyncio.create_task(session.gather(sent))]
        async with asyncio.timeout(30):
            while not service.requests:
                await asyncio.sleep(0.001)
        waiting.append(asyncio.create_task(session.gather(sent)))
        await asyncio.sleep(0.001)
        service.submit_gate.set()
        assert await asyncio.gather(*waiting) == [("CODE",)] * 2
        first = write_code(task="b")
        for _ in range(10):
            await asyncio.sleep(0)
        assert await session.gather(first, write_code(task="c")) == ("CODE", "CODE")
    assert [len(body["calls"]) for body in service.submissions] == [1, 2]


async def test_a_fault_of_the_transport_is_told_to_who_waits(service: FakeService) -> None:
    service.fail("POST /v1/run", RuntimeError("out of luck"))
    async with open_session(service):
        with pytest.raises(ParrotError, match="out of luck"):
            await write_code(task="a")
