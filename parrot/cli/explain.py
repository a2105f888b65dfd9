"""Why every call of an application ran where and when it did, as text in 80 columns."""

import textwrap
from collections.abc import Iterator, Sequence

import click

from parrot.cli.graph import COLOURS, MARKS, summary_line
from parrot.cli.output import seconds
from parrot.cli.timeline import spans, timeline_lines
from parrot.wire.answers import CallNode, GraphView

MAX_CALLS_PER_STAGE = 12
LINE_WIDTH = 80
LABEL_WIDTH = 11
INDENT = 6


def explain_lines(graph: GraphView, *, max_calls: int = MAX_CALLS_PER_STAGE) -> Iterator[str]:
    """Each call's objective, engine, times and tokens, with reasons; a timeline; the critical path.

    Calls of the critical path are marked `▸`. A stage with more than `max_calls` calls is cut and says so;
    what is critical is always shown.
    """
    names = {call.call_id: call.name for call in graph.calls}
    shown: list[CallNode] = []
    for stage in sorted({call.stage for call in graph.calls}):
        calls = [call for call in graph.calls if call.stage == stage]
        kept = _kept(calls, max_calls)
        shown.extend(kept)
        yield click.style(f"stage {stage}", bold=True)
        for call in kept:
            yield from _call_lines(call, names)
        if len(calls) > len(kept):
            yield f"    … {len(calls) - len(kept)} more"
    yield ""
    yield from timeline_lines(graph, shown)
    yield ""
    yield from _critical_lines(graph, names)
    yield summary_line(graph)


def _kept(calls: Sequence[CallNode], most: int) -> list[CallNode]:
    room = most - sum(call.critical for call in calls)
    kept = []
    for call in calls:
        if call.critical:
            kept.append(call)
        elif room > 0:
            kept.append(call)
            room -= 1
    return kept


def _call_lines(call: CallNode, names: dict[str, str]) -> Iterator[str]:
    mark = click.style(MARKS[call.state], fg=COLOURS.get(call.state))
    name = textwrap.shorten(call.name, LINE_WIDTH - 20, placeholder="…")
    yield f"{'▸' if call.critical else ' '} {mark} {click.style(name, bold=True)}  {call.state}"
    facts = {
        "objective": [call.objective, *_group(call, names), call.why_objective],
        "engine": _engine(call),
        "times": [_times(call)],
        "tokens": _tokens(call),
        "slack": [] if call.slack_s is None else [_slack(call.slack_s)],
        "error": [] if call.error is None else [f"{call.error.code}: {call.error.message}"],
    }
    for label, parts in facts.items():
        text = " · ".join(part for part in parts if part)
        if text:
            yield from textwrap.wrap(
                text,
                LINE_WIDTH,
                initial_indent=f"{'':{INDENT}}{label:<{LABEL_WIDTH}}",
                subsequent_indent=" " * (INDENT + LABEL_WIDTH),
                break_on_hyphens=False,
            )


def _group(call: CallNode, names: dict[str, str]) -> list[str]:
    """The task group, by the name of the call that joins it."""
    if call.task_group is None:
        return []
    join, _, stage = call.task_group.rpartition("/")
    return [f"group {names.get(join, join)}/{stage}"]


def _engine(call: CallNode) -> list[str]:
    if call.engine_id is None:
        return ["none yet: no room, or kept for others"] if call.state == "ready" else []
    attempt = f"attempt {call.attempt}" if call.attempt > 1 else ""
    return [call.engine_id, attempt, call.why_engine]


def _times(call: CallNode) -> str:
    times = call.times
    moments = {
        "submitted": times.submitted_s,
        "ready": times.ready_s,
        "placed": times.placed_s,
        "first token": times.first_token_s,
        "done" if call.state == "done" else "ended": times.done_s,
    }
    return ", ".join(f"{name} {at_s:.2f}" for name, at_s in moments.items() if at_s is not None) + " s"


def _tokens(call: CallNode) -> list[str]:
    tokens = call.tokens
    if not tokens.prompt:
        return []
    filled = f"prompt {tokens.prompt:,} = {tokens.prompt - tokens.shared:,} filled + {tokens.shared:,} shared"
    ahead = f" ({tokens.ahead:,} of them filled ahead)" if tokens.ahead else ""
    return [filled + ahead, f"output {tokens.output:,}"]


def _slack(slack_s: float) -> str:
    if slack_s < 0:
        return f"{seconds(-slack_s)} too little for the deadline"
    return f"{seconds(slack_s)} to spare before the deadline"


def _critical_lines(graph: GraphView, names: dict[str, str]) -> Iterator[str]:
    """The critical path, and what its time went into."""
    if not graph.critical_path:
        return
    path = " → ".join(names[call_id] for call_id in graph.critical_path)
    yield from textwrap.wrap(
        f"▸ critical path: {path}", LINE_WIDTH, subsequent_indent="    ", break_on_hyphens=False
    )
    critical = [call for call in graph.calls if call.critical]
    spent = dict.fromkeys(("engine", "prefill", "decode"), 0.0)
    for call in critical:
        for span in spans(call.times):
            if span.phase in spent:
                spent[span.phase] += span.end_s - span.begin_s
    yield (
        f"  on it: {seconds(spent['engine'])} waiting for engines, {seconds(spent['prefill'])} prefill, "
        f"{seconds(spent['decode'])} decode"
    )
    ended = [call.times.done_s for call in graph.calls if call.times.done_s is not None]
    if graph.deadline_s is not None:
        yield f"  deadline: {seconds(graph.deadline_s)} after the session began" + (
            f"; the last call ended at {seconds(max(ended))}" if ended else ""
        )
