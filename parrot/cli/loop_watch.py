"""Tells where an event loop stands still, while it does: afterwards nobody knows."""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

BEAT_S = 1.0
LATE_S = 2.0
"""A loop that takes so long to come to a callback stands still."""

logger = logging.getLogger(__name__)


@contextmanager
def watched_loop() -> Iterator[None]:
    """Watch the running event loop from a thread beside it. Each standstill is logged once, with the stack of
    the loop's thread: places in the code, no values.
    """
    ended = threading.Event()
    # Nobody waits for the thread: it waits for the loop, and ends by itself.
    threading.Thread(
        target=_watch,
        args=(asyncio.get_running_loop(), threading.get_ident(), ended),
        name="parrot-loop-watch",
        daemon=True,
    ).start()
    try:
        yield
    finally:
        ended.set()


def _watch(loop: asyncio.AbstractEventLoop, thread_id: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        came_round = threading.Event()
        try:
            loop.call_soon_threadsafe(came_round.set)
        except RuntimeError:  # the loop was closed
            return
        if came_round.wait(LATE_S) or ended.is_set():
            continue
        stack = "".join(traceback.format_stack(sys._current_frames()[thread_id]))
        logger.warning("the event loop stands still for %g s already, here:\n%s", LATE_S, stack)
        while not (came_round.wait(BEAT_S) or ended.is_set()):
            pass
