"""Virtual time: an event loop whose clock jumps to the next timer when nothing is ready to run.

    real loop      ready callbacks ─▶ wait in the operating system ─▶ timers that are due ─▶ …
    virtual loop   ready callbacks ─▶ clock := time of the next timer ─▶ timers that are due ─▶ …

Code on it cannot tell the difference: `asyncio.sleep`, `asyncio.timeout` and `call_later` mean virtual
seconds. Nothing comes from outside (there are no threads, sockets or signals in it), and what is due at one
instant runs in an order that follows from what was asked before. So a run depends on its inputs alone.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

EPOCH_S = 1_700_000_000.0
"""What the wall clock shows when a simulation begins, in seconds."""

T = TypeVar("T")

_RESOLUTION_S = 1e-9


class StalledError(RuntimeError):
    """Nothing is ready and no timer is set, so nothing can ever happen again."""


class _Jump(selectors.SelectSelector):
    """A selector that finds nothing and lets the virtual clock run instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let `timeout` seconds pass at once."""
        if timeout is None:
            raise StalledError("nothing is ready, no timer is set: the simulation waits for itself")
        self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in virtual time, which begins at 0 seconds."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jump.now_s

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Call `func` here and now: a thread would bring real time in."""
        if executor is not None:
            raise ValueError("there are no executors in virtual time")
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is handed on to whoever waits, as an executor does
            future.set_exception(error)
        return future


class VirtualClock:
    """`ports.Clock` on a virtual loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._time = loop.time

    def now_s(self) -> float:
        """Virtual seconds."""
        return self._time()

    def wall_s(self) -> float:
        """Virtual seconds on a wall clock that showed `EPOCH_S` at the beginning."""
        return EPOCH_S + self._time()

    async def sleep(self, duration_s: float) -> None:
        """Sleep in virtual time."""
        await asyncio.sleep(duration_s)


def run_virtual(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main` on a new virtual loop to its end; returns, or raises, what it does.

    Raises:
        StalledError: `main` waits for something that cannot happen.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop), "made by the factory above"
        return runner.run(main(loop))
