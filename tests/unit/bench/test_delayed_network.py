"""The round trip that is added to each request."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from parrot.bench.apps.network import DelayedTransport
from parrot.ports.clock import SystemClock

HALF_S = 0.1
CLOCK = SystemClock()


class Talker(httpx2.AsyncByteStream):
    """Says something at once, and something later; then it breaks off, if it is to."""

    def __init__(self, error: httpx2.HTTPError | None) -> None:
        self._error = error
        self.said_s: list[float] = []
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in (b"now", b"later"):
            self.said_s.append(CLOCK.now_s())
            yield part
            await asyncio.sleep(HALF_S / 2)
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        self.closed = True


class Network(httpx2.AsyncBaseTransport):
    def __init__(self, body: Talker) -> None:
        self._body = body
        self.asked_s = 0.0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked_s = CLOCK.now_s()
        return httpx2.Response(200, stream=self._body)


async def test_each_part_of_an_answer_comes_half_a_round_trip_after_it_was_said() -> None:
    body = Talker(None)
    network = Network(body)
    transport = DelayedTransport(network, rtt_s=2 * HALF_S, clock=CLOCK)
    began_s = CLOCK.now_s()
    heard_s = []
    async with (
        httpx2.AsyncClient(transport=transport, base_url="http://x") as client,
        client.stream("GET", "/") as answer,
    ):
        async for part in answer.aiter_bytes():
            heard_s.append((part, CLOCK.now_s()))
    assert [part for part, _ in heard_s] == [b"now", b"later"]
    assert network.asked_s - began_s >= HALF_S * 0.99
    for said_s, (_, came_s) in zip(body.said_s, heard_s, strict=True):
        assert came_s - said_s >= HALF_S * 0.99
    assert transport.num_requests == 1
    assert body.closed


async def test_an_answer_that_breaks_off_does_so_here_too() -> None:
    body = Talker(httpx2.ReadError("cut"))
    transport = DelayedTransport(Network(body), rtt_s=2 * HALF_S, clock=CLOCK)
    async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
        with pytest.raises(httpx2.ReadError):
            await client.get("/")
    assert body.closed
