"""An event loop in a thread of its own, for sessions that outlive the program's own loops."""

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import httpx2

T = TypeVar("T")

LEAVE_TIMEOUT_S = 5.0
"""A program that ends waits so long for its last sessions to be deleted."""


class Connections(httpx2.AsyncBaseTransport):
    """Connections that outlive the runs that use them: to open one is a round trip, too."""

    def __init__(self) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        self._transport = httpx2.AsyncHTTPTransport(limits=limits)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request."""
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        """A run has ended; others go on."""


class Background:
    """The loop, and what is open in it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.connections = Connections()
        self._leaving: set[Future[None]] = set()
        threading.Thread(target=self.loop.run_forever, name="parrot-integrations", daemon=True).start()
        atexit.register(self._wait)

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Do it there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def leave(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it without anybody waiting, but before the program ends."""
        future = self.start(work)
        self._leaving.add(future)
        future.add_done_callback(self._leaving.discard)

    def _wait(self) -> None:
        if self.pid == os.getpid():
            wait(list(self._leaving), timeout=LEAVE_TIMEOUT_S)


_known: list[Background] = []
_lock = threading.Lock()


def background() -> Background:
    """This process's; one that was forked gets one of its own."""
    with _lock:
        if not _known or _known[-1].pid != os.getpid():
            _known.append(Background())
        return _known[-1]
