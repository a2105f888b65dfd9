"""`parrot serve` as a process that can be signalled, killed, and made to die at a named instant."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

START_TIMEOUT_S = 30.0
TOOLS = Path(__file__).resolve().parent.parent


class Served:
    """A `parrot serve` process and what it said. With `crash_at` it kills itself there; with `watched` it
    writes what `reliability.watch` saw into that file.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        *,
        crash_at: str | None = None,
        watched: Path | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARROT_")}
        program = ["-m", "parrot.cli"]
        if crash_at is not None:
            program = [str(TOOLS / "crash_at.py"), crash_at]
        elif watched is not None:
            program = [str(TOOLS / "watched.py"), str(watched)]
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *program, "serve", "--json", *arguments],
            cwd=directory,
            env={
                **inherited,
                "XDG_CONFIG_HOME": str(directory),
                "XDG_DATA_HOME": str(directory / "data"),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()

    def url(self) -> str:
        """Its address, once an engine is up."""
        address = self.url_or_none()
        assert address is not None, self.said()
        return address

    def url_or_none(self) -> str | None:
        """Its address; None when it ended, or refused to start, before it had one."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            return None
        told = json.loads(line)
        if "error" in told:
            self._said.append(line)
            return None
        assert told["pid"] == self.process.pid
        address: str = told["url"]
        return address

    def said(self) -> str:
        """Everything on its standard error so far."""
        return "".join(self._said)

    def engine_pids(self) -> list[int]:
        """Its engines' processes."""
        found = []
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                parent = int(status.read_text().partition("PPid:")[2].split()[0])
                command = (status.parent / "cmdline").read_bytes()
            except (OSError, IndexError):
                continue
            if parent == self.process.pid and b"parrot.engine.worker" in command:
                found.append(int(status.parent.name))
        return found

    def end(self, number: signal.Signals | None = None, timeout_s: float = 30.0) -> int:
        """Wait for the process, signalled if `number` is given; gives its exit status."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def close(self) -> None:
        """End it if it lives, and let go of it."""
        engines = self.engine_pids()
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        for pid in engines:  # one that is stopped would not notice, and hold our pipe
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(START_TIMEOUT_S)
        self._reader.join(START_TIMEOUT_S)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _read(self, stream: IO[str]) -> None:
        self._said.extend(stream)
