"""`parrot serve` as a process, for tests that start, signal and kill it."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

START_TIMEOUT_S = 30.0


class Served:
    """A `parrot serve` process and what it said."""

    def __init__(self, arguments: list[str], directory: Path, environment: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARROT_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "parrot.cli", "serve", "--json", *arguments],
            cwd=directory,
            env={**inherited, "XDG_CONFIG_HOME": str(directory), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()

    def url(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.said()
        told = json.loads(line)
        assert told["pid"] == self.process.pid
        address: str = told["url"]
        return address

    def said(self) -> str:
        return "".join(self._said)

    def end(self, number: signal.Signals | None = None, timeout_s: float = 30.0) -> int:
        """Wait for the process, signalled if `number` is given; gives its exit status."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(START_TIMEOUT_S)
        self._reader.join(START_TIMEOUT_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _read(self, stream: IO[str]) -> None:
        self._said.extend(stream)
