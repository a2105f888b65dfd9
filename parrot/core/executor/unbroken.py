"""Work that is finished once it has begun: between a commit and the change in memory that it stands for."""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Unbroken:
    """Runs work that goes on to its end when whoever asked for it is cancelled.

    Without this, a client that leaves at the wrong moment leaves a change in the log that is not in memory,
    and everything that builds on memory afterwards contradicts the log.

    Work runs in the task of whoever asks, and gets one of its own only when that is cancelled: most never
    is, and much never waits. So it asks for no task that it could mean (`asyncio.timeout`, `TaskGroup`).
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Cancelling this stops the wait, not the work."""
        return await _Steps(work, self._tasks)

    async def join(self) -> None:
        """Return when nothing that was left is under way any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Steps(Generic[T]):
    """Takes work from one wait to the next, by hand."""

    def __init__(self, work: Coroutine[Any, Any, T], left: set[asyncio.Task[object]]) -> None:
        self._work = work
        self._left = left

    def __await__(self) -> Generator[Any, None, T]:
        waited_for: asyncio.Future[object] | None = None
        while True:
            try:
                waited_for = self._work.send(None)
            except StopIteration as ended:
                value: T = ended.value
                return value
            try:
                yield from _look_out_for(waited_for)
            except asyncio.CancelledError:
                task: asyncio.Task[object] = asyncio.ensure_future(self._go_on(waited_for))
                self._left.add(task)
                task.add_done_callback(self._left.discard)
                raise

    async def _go_on(self, waited_for: "asyncio.Future[object] | None") -> T:
        """The rest of the work, in a task of its own."""
        return await _Rest(self._work, waited_for)


class _Rest(Generic[T]):
    """Work that waits for something already."""

    def __init__(self, work: Coroutine[Any, Any, T], waited_for: "asyncio.Future[object] | None") -> None:
        self._work = work
        self._waited_for = waited_for

    def __await__(self) -> Generator[Any, None, T]:
        yield from _look_out_for(self._waited_for)
        return (yield from self._work.__await__())


def _look_out_for(waited_for: "asyncio.Future[object] | None") -> Generator[Any, None, None]:
    """Wait until a future is done, which is not cancelled with who waits; None gives way once."""
    if waited_for is None:
        yield None
        return
    # What a task does with a future that it is given to wait for.
    waited_for._asyncio_future_blocking = False
    if waited_for.done():
        return
    done: asyncio.Future[None] = waited_for.get_loop().create_future()

    def tell(_: object) -> None:
        if not done.done():
            done.set_result(None)

    waited_for.add_done_callback(tell)
    try:
        yield from done
    finally:
        waited_for.remove_done_callback(tell)
