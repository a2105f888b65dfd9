"""Tells where the event loop stands when it does not move on."""

import asyncio
import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Iterator

from parrot.ports.clock import SystemClock

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
"""The loop is asked for a sign of life this often."""

_AGAIN_S = 0.1
"""It is asked once more before it is blamed: the whole process may have been stopped."""


@contextlib.contextmanager
def watched_loop(*, late_s: float = 1.0) -> Iterator[None]:
    """While the block runs, log the stack of this thread's event loop whenever it is `late_s` late, and once
    more when it goes on. What is logged has places in the code and no values.
    """
    watchdog = _Watchdog(asyncio.get_running_loop(), late_s=late_s)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


class _Watchdog:
    def __init__(self, loop: asyncio.AbstractEventLoop, *, late_s: float) -> None:
        self._loop = loop
        self._late_s = late_s
        self._clock = SystemClock()
        self._watched = threading.get_ident()
        self._stopping = threading.Event()
        self._sign = threading.Event()
        self._thread = threading.Thread(target=self._run, name="parrot-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._sign.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            self._sign.clear()
            if self._stopping.is_set():  # it was set before the sign, which may be the one just cleared
                return
            asked_s = self._clock.now_s()
            try:
                self._loop.call_soon_threadsafe(self._sign.set)
            except RuntimeError:  # the loop is closed
                return
            if self._sign.wait(self._late_s) or self._sign.wait(_AGAIN_S):
                continue
            frame = sys._current_frames().get(self._watched)
            stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
            logger.warning("the event loop stands still for %g s already, here:\n%s", self._late_s, stack)
            self._sign.wait()
            if not self._stopping.is_set():
                logger.warning("the event loop goes on after %.1f s", self._clock.now_s() - asked_s)
