"""An application graph as text: calls by stage, in 80 columns."""

from collections import Counter
from collections.abc import Iterator, Sequence

import click

from parrot.cli.output import seconds
from parrot.wire.answers import CallNode, GraphView

MARKS = {"waiting": "·", "ready": "○", "running": "◐", "done": "●", "failed": "✗", "cancelled": "⊘"}
COLOURS = {"waiting": "white", "ready": "white", "running": "yellow", "done": "green", "failed": "red"}
MAX_CALLS_PER_STAGE = 12
NAME_WIDTH = 26
LINE_WIDTH = 80


def graph_lines(graph: GraphView, *, max_calls: int = MAX_CALLS_PER_STAGE) -> Iterator[str]:
    """The graph's lines; a stage with more than `max_calls` calls is cut, and says so.

    Each call shows its state, engine, tokens of its prompt (and how many of them were shared), tokens
    generated, its time from being ready to being done, and which calls it waits for.
    """
    sources: dict[str, set[str]] = {call.call_id: set() for call in graph.calls}
    for edge in graph.edges:
        sources[edge.target].add(edge.source)
    names = {call.call_id: call.name for call in graph.calls}
    yield f"{'':>4}{'call':<{NAME_WIDTH}}{'engine':<10}{'prompt':>7}{'shared':>8}{'output':>8}{'time':>9}"
    for stage in sorted({call.stage for call in graph.calls}):
        calls = [call for call in graph.calls if call.stage == stage]
        yield click.style(f"stage {stage}", bold=True) + f"  {_states(calls)}"
        for call in calls[:max_calls]:
            yield call_line(call)
            above = sorted(names[source] for source in sources[call.call_id])
            if above:
                yield click.style(f"      ← {_listed(above, 70)}", dim=True)
            if call.error:
                room = LINE_WIDTH - 8 - len(call.error.code)
                yield f"      {click.style(call.error.code, fg='red')}: {_shorten(call.error.message, room)}"
        if len(calls) > max_calls:
            yield f"    … {len(calls) - max_calls} more"
    yield summary_line(graph)


def call_line(call: CallNode) -> str:
    """One call's line."""
    mark = click.style(MARKS[call.state], fg=COLOURS.get(call.state))
    spent = _spent_s(call)
    name, engine = _shorten(call.name, NAME_WIDTH - 1), _shorten(call.engine_id or "-", 9)
    return (
        f"  {mark} {name:<{NAME_WIDTH}}{engine:<10}"
        f"{call.tokens.prompt:>7,}{call.tokens.shared:>8,}{call.tokens.output:>8,}"
        f"{seconds(spent) if spent is not None else '-':>9}"
    )


def summary_line(graph: GraphView) -> str:
    """Totals of a graph."""
    prompt = sum(call.tokens.prompt for call in graph.calls)
    shared = sum(call.tokens.shared for call in graph.calls)
    output = sum(call.tokens.output for call in graph.calls)
    share = f" ({shared / prompt:.0%})" if prompt else ""
    return (
        f"{len(graph.calls):,} calls, {len(graph.edges):,} edges · {prompt:,} prompt tokens, "
        f"{shared:,} shared{share} · {output:,} generated"
    )


def _spent_s(call: CallNode) -> float | None:
    times = call.times
    if times.done_s is None:
        return None
    return times.done_s - (times.ready_s if times.ready_s is not None else times.submitted_s)


def _states(calls: Sequence[CallNode]) -> str:
    counts = Counter(call.state for call in calls)
    return ", ".join(f"{counts[state]} {state}" for state in MARKS if counts[state])  # type: ignore[index]


def _listed(names: Sequence[str], width: int) -> str:
    text = ", ".join(names)
    if len(text) <= width:
        return text
    shown = text[: width - 12].rpartition(", ")[0] or names[0][: width - 12]
    return f"{shown} and {len(names) - shown.count(', ') - 1} more"


def _shorten(text: str, width: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
