"""A client's network, with a round trip's delay added to each request, and a count of requests."""

from typing import Any

import httpx2

from parrot.ports.clock import Clock


class DelayedTransport(httpx2.AsyncBaseTransport):
    """Delays a request by half a round trip, and its answer by the other half.

    Of a streamed answer, the headers are delayed, and so all that follows. Connections are those of
    `network`, which outlives this: a client's connections are warm when its program starts.
    """

    def __init__(self, network: httpx2.AsyncBaseTransport, *, rtt_s: float, clock: Clock) -> None:
        self._network = network
        self._half_s = rtt_s / 2
        self._clock = clock
        self.num_requests = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request, late; give its answer, late."""
        self.num_requests += 1
        if self._half_s:
            await self._clock.sleep(self._half_s)
        response = await self._network.handle_async_request(request)
        if self._half_s:
            await self._clock.sleep(self._half_s)
        return response

    async def aclose(self) -> None:
        """A client that ends leaves the connections to the next."""


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
