"""Programs and requests over a network that is slow, loses and breaks: nothing is done twice."""

import asyncio
import socket
import time
from typing import Any

import httpx2
import pytest
from faulty_link import Fault, FaultyLink
from http_harness import KEY_A, LIMITS, Harness, call, running_service
from sdk_harness import application, listening

import parrot
from parrot import Input, Output, native_function, semantic_function
from parrot.sdk import client as sdk_client
from parrot.sdk import connect as sdk_connect
from parrot.sdk.retry import RetryPolicy

PATIENT = RetryPolicy(attempts=40, first_delay_s=0.01, max_delay_s=0.05)


@semantic_function(max_tokens=12, ignore_eos=True)
def read(text: Input, answer: Output) -> None:
    """Read {{text}}: {{answer}}"""


@native_function
def louder(text: str) -> str:
    return text.upper()


async def run_application(url: str) -> tuple[list[str], int]:
    """Two submissions, a native function between them and a stream: the values; the sessions made."""
    async with httpx2.AsyncClient(timeout=20) as client:
        known = {s["session_id"] for s in await sessions(client, url)}
        async with parrot.connect(url, retry=PATIENT):
            first = read("a letter")
            second = read(louder(first))
            values = [await first.get(timeout_s=30), await second.get(timeout_s=30)]
            third: Any = read(second)
            values.append("".join([piece async for piece in third.stream()]))
            made = [s for s in await sessions(client, url) if s["session_id"] not in known]
    return values, len(made)


async def sessions(client: httpx2.AsyncClient, url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get(f"{url}/v1/sessions")).json()["sessions"]
    return found


@pytest.mark.parametrize("fault", ["cut request", "cut answer", "swallow answer"])
async def test_what_is_lost_on_the_way_is_neither_missing_nor_made_twice(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk_client, "_SILENCE_S", 1.0)
    monkeypatch.setattr(sdk_connect, "_TIMEOUT", httpx2.Timeout(1.0))
    async with application() as app, listening(app) as url:
        expected = await run_application(url)
        async with FaultyLink(target=url, fault=fault).open() as link:
            found = await run_application(link.url)
        counters = app.service.counters()
    assert found == expected
    assert (expected[1], link.num_struck >= 2) == (1, True)
    assert (counters["sessions_opened"], counters["calls_done"]) == (2, 6)


@pytest.mark.parametrize(("latency_s", "bytes_per_s"), [(0.2, float("inf")), (0.0, 10_000.0)])
async def test_a_slow_network_costs_time_only(latency_s: float, bytes_per_s: float) -> None:
    async with application() as app, listening(app) as url:
        expected = await run_application(url)
        async with FaultyLink(target=url, latency_s=latency_s, bytes_per_s=bytes_per_s).open() as link:
            found = await run_application(link.url)
        counters = app.service.counters()
    assert found == expected
    assert (counters["sessions_opened"], counters["calls_submitted"]) == (2, 6)


async def test_a_client_that_leaves_before_the_answer_and_comes_again_has_its_calls_once() -> None:
    async with running_service() as service:
        sid = await service.session()
        body = httpx2.Request("POST", "http://x", json={"calls": [call()]}).content
        head = (
            f"POST /v1/sessions/{sid}/calls HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY_A}\r\n"
            f"Idempotency-Key: once\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(head.encode() + body)
            await writer.drain()
            writer.transport.abort()
        answer = await service.client.post(
            f"/v1/sessions/{sid}/calls",
            content=body,
            headers={"Idempotency-Key": "once", "Content-Type": "application/json"},
        )
        graph = (await service.client.get(f"/v1/sessions/{sid}/graph")).json()
        assert answer.status_code == 202, answer.text
        assert [c["call_id"] for c in graph["calls"]] == [answer.json()["calls"][0]["call_id"]]


async def test_a_reader_that_reads_next_to_nothing_is_dropped_and_costs_no_memory() -> None:
    value = "x" * LIMITS.max_value_bytes
    async with running_service(heartbeat_s=0.2) as service:
        sid = await service.session()
        for number in range(40):
            path = f"/v1/sessions/{sid}/variables/v{number}"
            assert (await service.client.put(path, json={"value": value})).status_code == 200
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", service.port))
            asked = (
                f"GET /v1/sessions/{sid}/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY_A}\r\n\r\n"
            )
            await loop.sock_sendall(slow, asked.encode())
            assert await loop.sock_recv(slow, 1) == b"H"
            await service.check_canary()
            async with asyncio.timeout(20):
                while service.service.counters()["waiters"] or await has_readers(service, sid):
                    await asyncio.sleep(0.05)
            rest = b""
            async with asyncio.timeout(20):
                while piece := await received(slow):
                    rest += piece
        assert len(rest) < 40 * len(value)
        await service.check_canary()


async def received(sock: socket.socket) -> bytes:
    """The next bytes, none when the connection is closed or reset."""
    try:
        return await asyncio.get_running_loop().sock_recv(sock, 1 << 16)
    except ConnectionError:
        return b""


async def has_readers(service: Harness, sid: str) -> bool:
    session = next(s for s in service.service._keeper.sessions.values() if s.session_id == sid)
    return session.num_readers > 0


async def test_many_connections_that_drip_are_closed_and_others_are_served_meanwhile() -> None:
    async with running_service(header_timeout_s=1.0) as service:
        dripping = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(300)]

        async def drip(writer: asyncio.StreamWriter) -> None:
            for byte in b"GET /healthz HTTP/1.1\r\nX-Header: " + b"x" * 100:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.3)

        drips = [asyncio.ensure_future(drip(writer)) for _, writer in dripping]
        times_s = []
        for _ in range(20):
            began_s = time.monotonic()
            assert (await service.client.get("/healthz")).status_code == 200
            times_s.append(time.monotonic() - began_s)
        async with asyncio.timeout(10):
            ends = await asyncio.gather(*(received_all(reader) for reader, _ in dripping))
        for task in drips:
            task.cancel()
        await asyncio.gather(*drips, return_exceptions=True)
        for _, writer in dripping:
            writer.close()
        await service.check_canary()
        assert sorted(times_s)[-2] < 0.5, times_s
        assert set(ends) == {b""}


async def received_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""
