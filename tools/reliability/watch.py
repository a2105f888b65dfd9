"""A service that notes what requests make it do: code that is run, connections, a late event loop, memory."""

import asyncio
import importlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

LOOK_S = 0.01
EVENTS = frozenset(
    {
        "compile",
        "exec",
        "marshal.loads",
        "pickle.find_class",
        "ctypes.dlopen",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "os.system",
        "socket.connect",
        "subprocess.Popen",
    }
)
"""Of Python's audit events (PEP 578), those that a request has no business to cause."""


class Watch:
    """What was seen since it began."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._is_on = False
        self._events: Counter[str] = Counter()
        self._lag_s = 0.0
        self._first_bytes = 0
        self._most_bytes = 0

    def begin(self, *_: Any) -> None:
        """From here on."""
        self._events.clear()
        self._lag_s, self._first_bytes = 0.0, _resident_bytes()
        self._most_bytes = self._first_bytes
        self._is_on = True

    def write(self, *_: Any) -> None:
        """Put it into the file, whole or not at all."""
        self._is_on = False
        found = {
            "events": dict(self._events),
            "loop_lag_s": self._lag_s,
            "memory_growth_bytes": self._most_bytes - self._first_bytes,
        }
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(found), encoding="utf-8")
        new.replace(self._file)

    def hear(self, event: str, _arguments: object) -> None:
        """An audit hook. Modules that are imported late are the service's own code."""
        if self._is_on and event in EVENTS and not _is_importing(sys._getframe(1)):
            self._events[event] += 1

    async def look(self) -> None:
        """See again and again how late the event loop is, and how much memory there is."""
        while True:
            asked_s = time.monotonic()
            await asyncio.sleep(LOOK_S)
            if self._is_on:
                self._lag_s = max(self._lag_s, time.monotonic() - asked_s - LOOK_S)
                self._most_bytes = max(self._most_bytes, _resident_bytes())


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def main(file: Path, arguments: Sequence[str]) -> None:
    """Run a command of `parrot`, watched."""
    from parrot.cli.root import run as run_command

    watch, looking = Watch(file), set[asyncio.Task[None]]()
    serving: Any = importlib.import_module("parrot.cli.serving")
    build = serving.build_service

    async def build_watched(*given: Any, **options: Any) -> Any:
        looking.add(asyncio.create_task(watch.look()))
        return await build(*given, **options)

    serving.build_service = build_watched
    sys.addaudithook(watch.hear)
    signal.signal(signal.SIGUSR1, watch.begin)
    signal.signal(signal.SIGUSR2, watch.write)
    sys.exit(run_command(list(arguments)))
