"""A session's calls in Chrome's trace format, which Perfetto and chrome://tracing open.

Each engine is a process. Its calls lie on lanes (threads), as many as ran at once; a call lies on its lane
from the moment its prompt began to be filled, or it was ready, to its end:

    engine main   lane 1  │ design             ├──────────╮
                          │ prefill │ decode   │          │ plan
                  lane 2        │ write_file_1            ▼            │
                                │ filled ahead │ waiting │ prefill │ decode │

Arrows go from the call that produced a variable to the calls that consume it. The format is described in
*Trace Event Format* (Google, 2016); times in it are microseconds.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from parrot.cli.client import ServiceClient, service_option
from parrot.cli.output import say, write_json
from parrot.cli.timeline import Phase, spans
from parrot.errors import ConfigError
from parrot.wire.answers import CallNode, GraphView

Event = dict[str, object]

PHASE_NAMES: Mapping[Phase, str] = {
    "ahead": "filled ahead",
    "engine": "waiting",
    "prefill": "prefill",
    "decode": "decode",
}
NO_ENGINE = "no engine"


@click.command("export")
@click.argument("session_id")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file. Default: print."
)
@service_option
def export(service: ServiceClient, session_id: str, *, out: Path | None) -> None:
    """Write a session's timeline as a Chrome trace, for ui.perfetto.dev."""
    trace = chrome_trace(service.get(GraphView, f"/v1/sessions/{session_id}/graph"))
    if out is None:
        write_json(trace)
        return
    try:
        out.write_text(json.dumps(trace, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}", param="--out") from None
    say(f"written to {out}; open it at https://ui.perfetto.dev")


def chrome_trace(graph: GraphView) -> dict[str, object]:
    """The trace of a session; calls of which nothing happened on an engine are left out."""
    began = [call for call in graph.calls if _begin_s(call) is not None and _end_s(call) is not None]
    engines = sorted({call.engine_id or NO_ENGINE for call in began})
    events: list[Event] = []
    places: dict[str, tuple[int, int]] = {}
    for pid, engine_id in enumerate(engines, 1):
        calls = [call for call in began if (call.engine_id or NO_ENGINE) == engine_id]
        lanes = _lanes(calls)
        events.append(_named("process_name", f"engine {engine_id}", pid))
        events.extend(_named("thread_name", f"lane {lane}", pid, lane) for lane in sorted(set(lanes)))
        for call, lane in zip(calls, lanes, strict=True):
            places[call.call_id] = (pid, lane)
            events.extend(_slices(call, pid, lane))
    events.extend(_arrows(graph, places))
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"session_id": graph.session_id},
    }


def _lanes(calls: Sequence[CallNode]) -> list[int]:
    """A lane for each call, so that no two on one lane overlap: the first that is free when it begins."""
    lanes: dict[str, int] = {}
    free_at_s: list[float] = []
    for call in sorted(calls, key=lambda each: _begin_s(each) or 0.0):
        begin_s, end_s = _begin_s(call) or 0.0, _end_s(call) or 0.0
        lane = next((i for i, at_s in enumerate(free_at_s) if at_s <= begin_s), len(free_at_s))
        if lane == len(free_at_s):
            free_at_s.append(end_s)
        free_at_s[lane] = end_s
        lanes[call.call_id] = lane + 1
    return [lanes[call.call_id] for call in calls]


def _slices(call: CallNode, pid: int, lane: int) -> Iterator[Event]:
    begin_s, end_s = _begin_s(call) or 0.0, _end_s(call) or 0.0
    yield _slice(call.name, begin_s, end_s, pid, lane, _explanation(call))
    for span in spans(call.times):
        if span.phase in PHASE_NAMES:
            yield _slice(PHASE_NAMES[span.phase], span.begin_s, span.end_s, pid, lane, {})


def _slice(name: str, begin_s: float, end_s: float, pid: int, lane: int, args: Mapping[str, object]) -> Event:
    return {
        "name": name,
        "cat": "call",
        "ph": "X",
        "ts": _us(begin_s),
        "dur": max(0, _us(end_s) - _us(begin_s)),
        "pid": pid,
        "tid": lane,
        "args": dict(args),
    }


def _arrows(graph: GraphView, places: Mapping[str, tuple[int, int]]) -> Iterator[Event]:
    """A flow for each edge, from the producer's end to where the consumer was ready."""
    calls = {call.call_id: call for call in graph.calls}
    names = {variable.variable_id: variable.name for variable in graph.variables}
    for number, edge in enumerate(graph.edges, 1):
        source, target = calls[edge.source], calls[edge.target]
        if edge.source not in places or edge.target not in places or target.times.ready_s is None:
            continue
        name = names.get(edge.variable_id) or edge.variable_id
        # A flow belongs to the slice in which it stands: it leaves just before the producer ends.
        leaves_us = min(_us(_end_s(source) or 0.0) - 1, _us(target.times.ready_s))
        ends = (
            ("s", places[edge.source], max(leaves_us, _us(_begin_s(source) or 0.0))),
            ("f", places[edge.target], _us(target.times.ready_s)),
        )
        for phase, (pid, lane), at_us in ends:
            event: Event = {"name": name, "cat": "variable", "ph": phase, "id": number, "ts": at_us}
            event |= {"pid": pid, "tid": lane}
            yield event | {"bp": "e"} if phase == "f" else event


def _named(kind: str, name: str, pid: int, lane: int = 0) -> Event:
    return {"name": kind, "ph": "M", "pid": pid, "tid": lane, "args": {"name": name}}


def _explanation(call: CallNode) -> dict[str, object]:
    return {
        "call_id": call.call_id,
        "state": call.state,
        "stage": call.stage,
        "attempt": call.attempt,
        "critical": call.critical,
        "objective": call.objective,
        "task_group": call.task_group,
        "why_objective": call.why_objective,
        "why_engine": call.why_engine,
        "submitted_s": call.times.submitted_s,
        "tokens": call.tokens.model_dump(),
        "error": None if call.error is None else call.error.code,
    }


def _begin_s(call: CallNode) -> float | None:
    """When something of a call was first on an engine, or could have been."""
    shown = [span.begin_s for span in spans(call.times) if span.phase in PHASE_NAMES]
    return min(shown, default=None)


def _end_s(call: CallNode) -> float | None:
    return max((span.end_s for span in spans(call.times) if span.phase in PHASE_NAMES), default=None)


def _us(at_s: float) -> int:
    return round(at_s * 1_000_000)
