"""Waiting for something on behalf of a client that may leave."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from starlette.types import Receive

T = TypeVar("T")

UNWATCHED_S = 0.05
"""Most waits are over by then, and to watch one takes tasks of its own."""


class DisconnectedError(Exception):
    """The client went away; there is nobody to answer."""


class Watch(Generic[T]):
    """Looks out, in a task of its own that begins a moment later, for what ends a wait early: as soon as
    `look` returns, the wait's time is up.
    """

    def __init__(
        self, wait: asyncio.Timeout, look: Callable[[], Coroutine[Any, Any, T]], *, at_once: bool = False
    ) -> None:
        self._wait = wait
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[T] | None = None
        self._timer = self._loop.call_later(0 if at_once else UNWATCHED_S, self._begin)

    def found(self) -> T:
        """What `look` has returned; raises what it has raised."""
        assert self._task is not None, "the wait was ended by it"
        return self._task.result()

    async def stop(self) -> None:
        """Look no longer. To be called before the wait ends."""
        self._timer.cancel()
        if self._task is not None:
            await cancel_all(self._task)

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._look())
        self._task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            self._wait.reschedule(self._loop.time())


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone. Call it after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(
    work: Coroutine[Any, Any, T], *, receive: Receive, closing: asyncio.Event
) -> T | None:
    """The result of `work`, which is cancelled when the client leaves or the service closes.

    Returns None when the service closes first.

    Raises:
        DisconnectedError: the client left first.
    """
    try:
        async with asyncio.timeout(None) as wait:
            watch = Watch(wait, lambda: _left(receive, closing), at_once=closing.is_set())
            try:
                return await work
            finally:
                await watch.stop()
    except TimeoutError:
        if not wait.expired():
            raise
    if watch.found():
        raise DisconnectedError
    return None


async def _left(receive: Receive, closing: asyncio.Event) -> bool:
    """Return when the client has left, True, or the service closes, False."""
    gone, closed = asyncio.ensure_future(disconnected(receive)), asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait((gone, closed), return_when=asyncio.FIRST_COMPLETED)
        return gone.done()
    finally:
        await cancel_all(gone, closed)


async def cancel_all(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel tasks and wait until they have ended, whatever they end with."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
