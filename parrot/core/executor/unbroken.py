"""Work that is finished once it has begun: between a commit and the change in memory that it stands for."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


class Unbroken:
    """Runs work that goes on to its end when whoever asked for it is cancelled.

    Without this, a client that leaves at the wrong moment leaves a change in the log that is not in memory,
    and everything that builds on memory afterwards contradicts the log.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(self, work: Coroutine[object, object, T]) -> T:
        """The result of `work`. Cancelling this stops the wait, not the work."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def join(self) -> None:
        """Return when nothing is under way any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
