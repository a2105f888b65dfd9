"""What the demo shows while it runs: on a terminal a view that moves, elsewhere a line for each run."""

from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text as Styled

from parrot.cli.demo.applications import APPLICATIONS, Application
from parrot.cli.demo.measure import WAYS, Measured, Way
from parrot.cli.output import seconds
from parrot.wire.answers import CallNode, GraphView

WAY_TITLES: Mapping[Way, str] = {
    "application": "as an application",
    "cached": "request by request, prefixes cached",
    "alone": "request by request, nothing shared",
}

STYLES = {
    "waiting": "dim",
    "ready": "cyan",
    "running": "yellow",
    "done": "green",
    "failed": "red",
    "cancelled": "red",
}
STEPS = "▁▂▃▄▅▆▇█"
BAR_WIDTH = 20


class DemoView:
    """Shows runs as they go on; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Live(console=console, refresh_per_second=8, transient=False) if console.is_terminal else None
        )
        self._lines: list[RenderableType] = []
        self._application = APPLICATIONS[0]
        self._way: Way = WAYS[0]
        self._now: RenderableType = Styled()

    def __enter__(self) -> "DemoView":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def warm_up(self) -> None:
        """The engine makes a call that is not counted."""
        self._show(Styled("warming up …", style="yellow"))

    def begin(self, application: Application, way: Way) -> None:
        """A run begins."""
        self._application, self._way = application, way
        if way == WAYS[0]:
            self._lines.append(Styled(f"\n{application.title}", style="bold"))
        self._show(Styled(f"  {WAY_TITLES[way]} …", style="yellow"))

    def graph(self, graph: GraphView) -> None:
        """The running application's graph as it is now."""
        self._show(
            Styled("\n").join([Styled(f"  {WAY_TITLES[self._way]} …", style="yellow"), *graph_rows(graph)])
        )

    def calls(self, num_done: int, num_calls: int) -> None:
        """So many single calls have been answered."""
        full = BAR_WIDTH * num_done // num_calls
        bar = "━" * full + "╌" * (BAR_WIDTH - full)
        self._show(Styled(f"  {WAY_TITLES[self._way]:<36} {bar} {num_done}/{num_calls}", style="yellow"))

    def end(self, measured: Measured) -> None:
        """A run has ended."""
        line = Styled(
            f"  {WAY_TITLES[measured.way]:<36} {seconds(measured.duration_s):>7}   {_counts(measured)}"
        )
        if measured.graph is not None:
            self._lines += graph_rows(measured.graph)
        self._lines.append(line)
        if self._live is None:
            self._console.print(f"{self._application.title}:{line.plain}", highlight=False, soft_wrap=True)
        self._show(Styled())

    def _show(self, now: RenderableType) -> None:
        self._now = now
        if self._live is not None:
            self._live.update(Group(*self._lines, self._now))


def graph_rows(graph: GraphView) -> list[Styled]:
    """A row for each stage: a mark for each call (a running one grows with its tokens), and what they are."""
    rows = []
    for stage in sorted({call.stage for call in graph.calls}):
        calls = [call for call in graph.calls if call.stage == stage]
        row = Styled(f"    {stage:>2} ", style="dim")
        for call in calls:
            row.append(_mark(call, graph.calls), style=STYLES[call.state])
        row.append(" " * max(1, 10 - len(calls)))
        row.append(" → ".join(_kinds(calls)))
        shared = sum(call.tokens.shared for call in calls)
        if shared:
            prompt = sum(call.tokens.prompt for call in calls)
            row.append(f"  {shared:,} of {prompt:,} prompt tokens shared", "dim")
        rows.append(row)
    return rows


def _mark(call: CallNode, calls: Sequence[CallNode]) -> str:
    if call.state == "running":
        most = max((other.tokens.output for other in calls), default=1)
        return STEPS[min(len(STEPS) - 1, len(STEPS) * call.tokens.output // max(most, 1, 24))]
    return {"waiting": "·", "ready": "○", "done": "●", "failed": "✗", "cancelled": "⊘"}[call.state]


def _kinds(calls: Sequence[CallNode]) -> list[str]:
    return list(dict.fromkeys(call.name.rstrip("0123456789").rstrip("_") for call in calls))


def _counts(measured: Measured) -> str:
    return f"{measured.num_prefilled_tokens:,} prompt tokens computed"
