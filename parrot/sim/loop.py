"""Virtual time: an event loop whose clock jumps to the next timer when nothing is ready to run.

    real loop      ready callbacks ─▶ wait in the operating system ─▶ timers that are due ─▶ …
    virtual loop   ready callbacks ─▶ clock := time of the next timer ─▶ timers that are due ─▶ …

Code on it cannot tell the difference: `asyncio.sleep`, `asyncio.timeout` and `call_later` mean virtual
seconds. Nothing comes from outside (there are no threads, sockets or signals in it), and what is due at one
instant runs in an order that follows from what was asked before. So a run depends on its inputs alone.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from typing import Any, TypeVar, TypeVarTuple, Unpack

EPOCH_S = 1_700_000_000.0
"""What the wall clock shows when a simulation begins, in seconds."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_RESOLUTION_S = 1e-9
_MANY_CANCELLED = 50
"""So many cancelled timers may stay in the heap, and in a larger heap up to half of all."""


class StalledError(RuntimeError):
    """Nothing is ready and no timer is set, so nothing can ever happen again."""


class _Handle(asyncio.Handle):
    """A callback that is asked for; what other loops keep for debugging is left out."""

    __slots__ = ()
    _callback: Callable[..., object] | None
    _context: Context

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> None:
        self._callback = callback
        self._args = args
        self._context = copy_context() if context is None else context
        self._cancelled = False

    def __repr__(self) -> str:
        return f"<callback {self._callback!r}>"

    def cancel(self) -> None:
        """Do not call it."""
        self._cancelled = True
        self._callback = None
        self._args = ()


class _Timer(asyncio.TimerHandle):
    """A callback that is due at a certain time. Of those that are due at one time the one that was asked for
    first comes first.
    """

    __slots__ = ()
    _callback: Callable[..., object] | None
    _context: Context

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: "VirtualLoop",
        context: Context | None,
    ) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._scheduled = True

    def __repr__(self) -> str:
        return f"<callback {self._callback!r} at {self._when} s>"

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def cancel(self) -> None:
        """Do not call it."""
        if not self._cancelled:
            if self._scheduled:
                self._loop.num_cancelled += 1
            self._cancelled = True
            self._callback = None
            self._args = ()


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio event loop in virtual time, which begins at 0 seconds."""

    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        """Virtual seconds since the loop was made."""
        self.num_cancelled = 0
        """Timers that were cancelled and are still in the heap."""
        self._soon: deque[_Handle | _Timer] = deque()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._num_timers = 0
        self._until_s = _RESOLUTION_S
        """Timers that are due before this are due now."""

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.now_s

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call it after all that is ready now."""
        handle = _Handle(callback, args, context)
        self._soon.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """`call_soon`: there are no threads."""
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call it after `delay` virtual seconds."""
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call it at a virtual time."""
        timer = _Timer(when, callback, args, self, context)
        self._num_timers += 1
        heappush(self._timers, (when, self._num_timers, timer))
        return timer

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

    def close(self) -> None:
        """Forget what is still asked for."""
        super().close()
        self._soon.clear()
        self._timers.clear()

    def _run_once(self) -> None:
        """Run until the loop is to stop: callbacks that are ready, then timers that are due, and so on."""
        soon, popleft = self._soon, self._soon.popleft
        while True:
            timers = self._timers
            if not soon or (timers and timers[0][0] < self._until_s):
                self._take_due()
            # What these ask for comes after the timers that are due by then.
            for _ in range(len(soon)):
                handle = popleft()
                callback = handle._callback
                if callback is None:
                    continue
                try:
                    handle._context.run(callback, *handle._args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 - as every loop does
                    self.call_exception_handler(
                        {"message": f"exception in {handle!r}", "exception": error, "handle": handle}
                    )
            if self._stopping:
                return

    def _take_due(self) -> None:
        """Let time pass when nothing is ready; then timers that are due are."""
        if self.num_cancelled > _MANY_CANCELLED and self.num_cancelled * 2 > len(self._timers):
            self._timers = [each for each in self._timers if not each[2]._cancelled]
            heapify(self._timers)
            self.num_cancelled = 0
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
            self.num_cancelled -= 1
        if not self._soon and not self._stopping:
            if not timers:
                raise StalledError("nothing is ready, no timer is set: the simulation waits for itself")
            self.now_s += max(0.0, timers[0][0] - self.now_s)
        self._until_s = self.now_s + _RESOLUTION_S
        while timers and timers[0][0] < self._until_s:
            timer = heappop(timers)[2]
            timer._scheduled = False
            if timer._cancelled:
                self.num_cancelled -= 1
            self._soon.append(timer)


class VirtualClock:
    """`ports.Clock` on a virtual loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now_s(self) -> float:
        """Virtual seconds."""
        return self._loop.now_s

    def wall_s(self) -> float:
        """Virtual seconds on a wall clock that showed `EPOCH_S` at the beginning."""
        return EPOCH_S + self._loop.now_s

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
