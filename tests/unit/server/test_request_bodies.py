"""Bodies, over the application: what is not a JSON object of the right shape never reaches the service."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_fakes import SID, Exchange, FakeService, app_of, client_of
from starlette.types import Message

from parrot.core.limits import Limits
from parrot.server.bodies import Turnstile
from parrot.server.config import ServerConfig

VARIABLE = f"/v1/sessions/{SID}/variables/x"
JSON = "application/json"


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        (JSON, b"{", 400, "bad_json"),
        (JSON, b"", 400, "bad_json"),
        (JSON, b'{"value": "\xff"}', 400, "not_utf8"),
        (JSON, '{"value": "v"}'.encode("utf-16"), 400, "not_utf8"),
        (JSON, b"[]", 422, "invalid"),
        (JSON, b'{"value": "v", "vlaue": 1}', 422, "unknown_field"),
        (JSON, b'{"value": 5}', 422, "invalid"),
        (JSON, b"[" * 100_000, 400, "too_deep"),
        ("text/plain", b'{"value": "v"}', 415, "unsupported_media_type"),
        ("application/json; charset=latin-1", b'{"value": "v"}', 415, "unsupported_media_type"),
        ("multipart/form-data; boundary=x", b"--x--", 415, "unsupported_media_type"),
        ("", b'{"value": "v"}', 415, "unsupported_media_type"),
    ],
)
async def test_a_body_that_is_not_ours_is_refused(
    content_type: str, body: bytes, status: int, code: str
) -> None:
    service = FakeService()
    headers = {"Content-Type": content_type} if content_type else {}
    async with client_of(app_of(service)) as client:
        answer = await client.put(VARIABLE, content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert service.asked == []


async def test_a_compressed_body_is_refused_unread() -> None:
    exchange = Exchange(VARIABLE, method="PUT", headers={"Content-Type": JSON, "Content-Encoding": "gzip"})

    async def receive() -> Message:
        raise AssertionError("the body was read")

    await app_of(FakeService())(exchange.scope, receive, exchange.send)
    assert exchange.status == 415


async def test_an_announced_length_beyond_the_limit_is_refused_unread() -> None:
    headers = {"Content-Type": JSON, "Content-Length": "10737418240"}
    exchange = Exchange(VARIABLE, method="PUT", headers=headers)

    async def receive() -> Message:
        raise AssertionError("the body was read")

    await app_of(FakeService())(exchange.scope, receive, exchange.send)
    assert exchange.status == 413
    assert (b"connection", b"close") in exchange.sent[0]["headers"]


async def test_a_body_of_unknown_length_is_cut_off_at_the_limit() -> None:
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield b"x" * 1000

    service = FakeService(limits=Limits(max_batch_bytes=10_000))
    exchange = Exchange(
        VARIABLE, method="PUT", headers={"Content-Type": JSON, "Transfer-Encoding": "chunked"}
    )
    source = pieces()

    async def receive() -> Message:
        return {"type": "http.request", "body": await anext(source), "more_body": True}

    await app_of(service)(exchange.scope, receive, exchange.send)
    assert exchange.status == 413
    assert sent <= 11_000


async def test_a_body_that_does_not_come_is_408() -> None:
    headers = {"Content-Type": JSON, "Content-Length": "100"}
    exchange = Exchange(VARIABLE, method="PUT", headers=headers)
    first = True

    async def receive() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": b"{", "more_body": True}
        return await exchange.receive_never()

    await app_of(FakeService(), ServerConfig(body_timeout_s=0.02))(exchange.scope, receive, exchange.send)
    assert (exchange.status, json.loads(exchange.body)["error"]["code"]) == (408, "request_timeout")


async def test_a_large_body_is_understood_too() -> None:
    service = FakeService()
    value = "é" * 300_000
    async with client_of(app_of(service)) as client:
        answer = await client.put(VARIABLE, json={"value": value})
    assert answer.json()["value"] == value


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.binary(max_size=60) | st.dictionaries(
    st.sampled_from(["name", "objective", "deadline_s", "metadata", "value", "calls", "variables", "x"]),
    JSON_VALUES,
    max_size=4,
).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))


@settings(max_examples=150, deadline=None)
@given(body=BODIES, route=st.sampled_from(["", f"/{SID}/calls", f"/{SID}/cancel", f"/{SID}/variables/x"]))
def test_no_body_is_a_fault_of_ours(body: bytes, route: str) -> None:
    async def send() -> int:
        async with client_of(app_of(FakeService())) as client:
            method = "PUT" if "variables" in route else "POST"
            answer = await client.request(
                method, f"/v1/sessions{route}", content=body, headers={"Content-Type": JSON}
            )
        return answer.status_code

    assert asyncio.run(send()) < 500


async def test_of_many_large_bodies_at_one_instant_each_is_taken_in_a_turn_of_its_own() -> None:
    turnstile, turn, passed = Turnstile(), 0, []

    async def arrive(number: int) -> None:
        await turnstile.pass_through()
        passed.append((number, turn))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(arrive(number)) for number in range(20)]
        while not all(task.done() for task in tasks):
            turn += 1
            await asyncio.sleep(0)
    assert [number for number, _ in passed] == list(range(20))
    assert len({taken for _, taken in passed}) == 20
