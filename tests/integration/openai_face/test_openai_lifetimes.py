"""What becomes of requests whose client, engine or service goes away."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from http_harness import Harness, running_service
from openai_streams import CHAT, COMPLETIONS, user

from parrot.engine.scripted_config import ScriptedConfig, ScriptedFault

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW = ScriptedConfig(
    context_tokens=4096,
    decode_step_s=0.02,
    faults=(
        ScriptedFault(kind="raise", marker="#breaks-once", after_tokens=5, times=1),
        ScriptedFault(kind="bad_output", marker="#breaks-always", after_tokens=5),
        ScriptedFault(kind="bad_output", marker="#never-begins"),
    ),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def slow_service() -> AsyncIterator[Harness]:
    """A service whose engine takes its time, and fails when it is told to."""
    async with running_service(engine=SLOW) as harness:
        yield harness


async def until_idle(service: Harness) -> None:
    """Return when nothing runs and no context is in use; in vain after two seconds."""
    async with asyncio.timeout(30):
        while True:
            (engine,) = service.service.engines().engines
            counters = service.service.counters()
            if not (counters["calls_running"] or counters["sessions_open"] or engine.num_owned_blocks):
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("num_choices", [1, 3])
async def test_a_client_that_leaves_takes_its_request_along(
    slow_service: Harness, streams: bool, num_choices: int
) -> None:
    labels = {"user": "u", "prompt_cache_key": "k", "metadata": {"team": "a"}}
    body = {"prompt": "A long one", "max_tokens": 2000, "ignore_eos": True, "n": num_choices, **labels}
    request = json.dumps({**body, "stream": streams}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", slow_service.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key-of-a\r\n"
        b"X-Dynamo-Session-ID: s1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(request), request)
    )
    if streams:
        await reader.readuntil(b'"text"')
    async with asyncio.timeout(30):
        while slow_service.service.counters()["calls_running"] < num_choices:
            await asyncio.sleep(0.01)
    sessions = (await slow_service.client.get("/v1/sessions")).json()["sessions"]
    assert [session["name"] for session in sessions] == ["cmpl"]
    assert sessions[0]["metadata"] == {"user": "u", "prompt_cache_key": "k", "team": "a", "session": "s1"}
    writer.close()
    await until_idle(slow_service)
    assert (await slow_service.client.get("/v1/sessions")).json()["sessions"] == []


async def test_deleting_its_session_ends_a_request(slow_service: Harness) -> None:
    body = {"messages": user("A long one"), "max_tokens": 2000, "ignore_eos": True}
    asking = asyncio.ensure_future(slow_service.client.post(CHAT, json=body))
    sessions: list[dict[str, str]] = []
    async with asyncio.timeout(30):
        while not sessions:
            await asyncio.sleep(0.01)
            sessions = (await slow_service.client.get("/v1/sessions")).json()["sessions"]
    sid = sessions[0]["session_id"]
    assert (await slow_service.client.delete(f"/v1/sessions/{sid}")).status_code == 204
    answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "session_closed")
    await until_idle(slow_service)


async def test_another_attempt_is_not_seen_in_the_stream(slow_service: Harness) -> None:
    body = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    prompt = "Say this, and #breaks-once"
    async with slow_service.client.stream(
        "POST", COMPLETIONS, json={"prompt": prompt, "stream": True, **body}
    ) as answer:
        lines = [line async for line in answer.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    streamed = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    whole = (await slow_service.client.post(COMPLETIONS, json={"prompt": prompt, **body})).json()
    assert streamed == whole["choices"][0]["text"]
    assert slow_service.service.counters()["retries"] == 1


async def test_a_failure_in_a_stream_is_told_in_the_stream(slow_service: Harness) -> None:
    body = {"prompt": "Now #breaks-always", "stream": True, "max_tokens": 20, "ignore_eos": True}
    async with slow_service.client.stream("POST", COMPLETIONS, json=body) as answer:
        assert answer.status_code == 200
        lines = [line async for line in answer.aiter_lines() if line]
    error = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert error["code"] in {"attempts_exhausted", "stream_reset"}
    assert {"message", "type", "param"} <= error.keys()
    await until_idle(slow_service)


async def test_a_failure_before_the_first_token_is_an_ordinary_error(slow_service: Harness) -> None:
    for stream in (False, True):
        body = {"prompt": "Now #never-begins", "stream": stream, "max_tokens": 20}
        answer = await slow_service.client.post(COMPLETIONS, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "attempts_exhausted")
    await until_idle(slow_service)


async def test_a_service_that_drains_takes_no_more() -> None:
    async with running_service(engine=SLOW) as harness:
        await harness.service.drain(0.1)
        answer = await harness.client.post(COMPLETIONS, json={"prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
        assert answer.headers["retry-after"]
