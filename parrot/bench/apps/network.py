"""A client's network, with a round trip's delay added to each request, and a count of requests."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from parrot.ports.clock import Clock


class DelayedTransport(httpx2.AsyncBaseTransport):
    """Delays a request by half a round trip, and each part of its answer by the other half.

    Connections are those of `network`, which outlives this: a client's connections are warm when its program
    starts.
    """

    def __init__(self, network: httpx2.AsyncBaseTransport, *, rtt_s: float, clock: Clock) -> None:
        self._network = network
        self._half_s = rtt_s / 2
        self._clock = clock
        self.num_requests = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request, late; give its answer, late."""
        self.num_requests += 1
        if not self._half_s:
            return await self._network.handle_async_request(request)
        await self._clock.sleep(self._half_s)
        response = await self._network.handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream), "an asynchronous transport's answer"
        body = _LateBody(response.stream, self._half_s, self._clock)
        try:
            await self._clock.sleep(self._half_s)
        except BaseException:
            await body.aclose()
            raise
        return httpx2.Response(
            response.status_code, headers=response.headers, stream=body, extensions=response.extensions
        )

    async def aclose(self) -> None:
        """A client that ends leaves the connections to the next."""


class _LateBody(httpx2.AsyncByteStream):
    """Reads an answer as it comes, and hands on each part so much later."""

    def __init__(self, stream: httpx2.AsyncByteStream, late_s: float, clock: Clock) -> None:
        self._stream = stream
        self._late_s = late_s
        self._clock = clock
        self._parts: asyncio.Queue[tuple[float, bytes | httpx2.HTTPError | None]] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            due_s, part = await self._parts.get()
            wait_s = due_s - self._clock.now_s()
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            if part is None:
                return
            if isinstance(part, httpx2.HTTPError):
                raise part
            yield part

    async def aclose(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._stream.aclose()

    async def _read(self) -> None:
        end: httpx2.HTTPError | None = None
        try:
            async for part in self._stream:
                self._put(part)
        except httpx2.HTTPError as error:
            end = error
        self._put(end)

    def _put(self, part: bytes | httpx2.HTTPError | None) -> None:
        self._parts.put_nowait((self._clock.now_s() + self._late_s, part))


def network() -> httpx2.AsyncHTTPTransport:
    """Connections to servers, as many as are wanted; to be closed by whoever made it."""
    return httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=None))


def http_client(
    url: str, transport: httpx2.AsyncBaseTransport | None = None, **options: Any
) -> httpx2.AsyncClient:
    """A client without time limits on answers: a slow server is measured, not given up."""
    return httpx2.AsyncClient(
        base_url=url,
        transport=transport,
        timeout=httpx2.Timeout(connect=10.0, read=3600.0, write=60.0, pool=None),
        limits=httpx2.Limits(max_connections=None),
        trust_env=False,
        **options,
    )
