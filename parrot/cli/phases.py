"""Start-up phases with their seconds: bars on a terminal, one line a phase elsewhere."""

import sys
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from parrot.cli.output import seconds
from parrot.ports.clock import Clock
from parrot.ports.engine import Progress


class Phases:
    """Shows, on standard error, what each of several things is busy with while it starts.

    A context manager; `of(name)` gives the callback for one thing, which may be called from any thread.
    """

    def __init__(self, *, clock: Clock, stream: TextIO | None = None) -> None:
        self._clock = clock
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._bars: Bars | None = None
        self._running: dict[str, tuple[str, float, TaskID | None]] = {}

    def __enter__(self) -> "Phases":
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[spent]}"),
            )
            self._bars = Bars(*columns, console=self._console)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every phase and leave the terminal to others. Idempotent."""
        for name in tuple(self._running):
            self.end(name)
        if self._bars is not None:
            self._bars.stop()

    def of(self, name: str) -> Progress:
        """The callback of one thing that starts."""
        return lambda phase, fraction: self.show(name, phase, fraction)

    def show(self, name: str, phase: str, fraction: float | None) -> None:
        """`name` is in `phase`, of which `fraction` is done; another phase ends the one before."""
        running = self._running.get(name)
        if running is None or running[0] != phase:
            self.end(name)
            bar = None
            if self._bars is not None:
                bar = self._bars.add_task(
                    f"{name}: {phase}", total=1.0 if fraction is not None else None, spent=""
                )
            running = self._running[name] = (phase, self._clock.now_s(), bar)
        if self._bars is not None and running[2] is not None and fraction is not None:
            self._bars.update(running[2], total=1.0, completed=fraction, spent=self._spent(running[1]))

    def end(self, name: str) -> None:
        """`name` has left its phase."""
        running = self._running.pop(name, None)
        if running is None:
            return
        phase, began_s, bar = running
        if self._bars is not None and bar is not None:
            self._bars.update(bar, total=1.0, completed=1.0, spent=self._spent(began_s))
        else:
            self._console.print(f"{name}: {phase} … {self._spent(began_s)}", markup=False)

    def _spent(self, began_s: float) -> str:
        return seconds(self._clock.now_s() - began_s)
