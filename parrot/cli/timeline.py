"""When the calls of an application waited, had their prompts filled, and generated: drawn in the terminal.

design        ░▒▒▒▒▒██████████                 1.2 s
write_file_1  ··▒▒▒··········░▒███████         2.0 s
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from parrot.cli.output import seconds
from parrot.wire.answers import CallNode, GraphView, Times

Phase = Literal["inputs", "engine", "ahead", "prefill", "decode"]

SIGNS: dict[Phase, str] = {"inputs": "·", "engine": "░", "ahead": "▒", "prefill": "▒", "decode": "█"}
LEGEND = "· waits for inputs   ░ waits for an engine   ▒ prompt is filled   █ generates"
NAME_WIDTH = 20
BAR_WIDTH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What a call did, from when to when; seconds since the session began."""

    phase: Phase
    """`ahead`: its prompt's beginning was filled while it waited for inputs; lies over `inputs`."""
    begin_s: float
    end_s: float


def spans(times: Times) -> tuple[Span, ...]:
    """What a call did, in order, as far as it has ended; `ahead` follows the wait that it lies in."""
    found: list[Span] = []
    begin_s = times.submitted_s
    ends: tuple[tuple[Phase, float | None], ...] = (
        ("inputs", times.ready_s),
        ("engine", times.placed_s),
        ("prefill", times.first_token_s),
        ("decode", times.done_s),
    )
    for phase, end_s in ends:
        if end_s is None:
            continue
        found.append(Span(phase=phase, begin_s=begin_s, end_s=max(begin_s, end_s)))
        begin_s = max(begin_s, end_s)
        if phase == "inputs":
            found.extend(_ahead(times, end_s))
    return tuple(found)


def timeline_lines(graph: GraphView, calls: Sequence[CallNode] | None = None) -> Iterator[str]:
    """A bar for each call (all of them, if not given some), in 80 columns, on one scale, and a legend."""
    shown = graph.calls if calls is None else calls
    ended = [span.end_s for call in shown for span in spans(call.times)]
    if not ended:
        return
    begin_s = min(call.times.submitted_s for call in shown)
    width_s = max(ended) - begin_s
    for call in shown:
        mark = "▸" if call.critical else " "
        done_s = call.times.done_s
        done = "" if done_s is None else seconds(done_s - begin_s)
        bar = _bar(spans(call.times), begin_s, width_s)
        yield f"{mark} {_shorten(call.name):<{NAME_WIDTH}}{bar:<{BAR_WIDTH}}{done:>8}".rstrip()
    yield LEGEND


def _ahead(times: Times, ready_s: float) -> Iterator[Span]:
    """The part of what was filled ahead that lies in this call's own wait for inputs."""
    if times.ahead_began_s is None:
        return
    begin_s = max(times.submitted_s, times.ahead_began_s)
    end_s = min(ready_s, ready_s if times.ahead_ended_s is None else times.ahead_ended_s)
    if begin_s < end_s:
        yield Span(phase="ahead", begin_s=begin_s, end_s=end_s)


def _bar(parts: Sequence[Span], begin_s: float, width_s: float) -> str:
    """Each column shows what took most of it; what took any time at all, and follows nothing, shows."""
    cells = [" "] * BAR_WIDTH
    for span in parts:
        if span.end_s > span.begin_s and width_s > 0:
            first = round(BAR_WIDTH * (span.begin_s - begin_s) / width_s)
            last = round(BAR_WIDTH * (span.end_s - begin_s) / width_s)
            for column in range(first, last):
                cells[column] = SIGNS[span.phase]
    return "".join(cells)


def _shorten(name: str) -> str:
    return name if len(name) < NAME_WIDTH else name[: NAME_WIDTH - 2] + "…"
