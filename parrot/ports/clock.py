"""Time, as the core sees it."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from: the real clock, or a simulator's virtual one."""

    def now_s(self) -> float:
        """Seconds on a clock that never goes back; its zero has no meaning."""
        ...

    def wall_s(self) -> float:
        """Seconds since the epoch, for people to read and for records that outlive the process."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Return after `duration_s` seconds of this clock."""
        ...


class SystemClock:
    """The machine's clock. The only place where the core's time comes from the operating system.

    The wall clock is read once, and goes on from there with the monotonic one: somebody who sets the clock
    while the service runs neither ends every call and session at once, nor keeps any for ever.
    """

    def __init__(self) -> None:
        self._epoch_s = time.time() - time.monotonic()

    def now_s(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def wall_s(self) -> float:
        """Seconds since the epoch."""
        return self._epoch_s + time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(duration_s)
