"""What the command line makes of a graph that explains itself: text, a timeline, a Chrome trace."""

import json
from itertools import permutations
from typing import Any

import click
import fastjsonschema

from parrot.cli.explain import explain_lines
from parrot.cli.timeline import LEGEND, spans, timeline_lines
from parrot.cli.trace import chrome_trace
from parrot.wire.answers import CallNode, Edge, ErrorBody, GraphView, Times, Tokens, VariableNode

WIDTH = 80

NAME = {"type": "string", "minLength": 1}
WHERE = {"pid": {"type": "integer", "minimum": 1}, "tid": {"type": "integer", "minimum": 0}}
WHEN = {"type": "integer", "minimum": 0}


def event_schema(kind: str, **fields: object) -> dict[str, object]:
    properties = {"ph": {"const": kind}, "name": NAME, **WHERE, **fields}
    return {"properties": properties, "required": sorted(properties), "additionalProperties": False}


TRACE_SCHEMA = {
    "type": "object",
    "required": ["traceEvents"],
    "additionalProperties": False,
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object"},
        "traceEvents": {
            "type": "array",
            "items": {
                "type": "object",
                "oneOf": [
                    event_schema("X", cat=NAME, ts=WHEN, dur=WHEN, args={"type": "object"}),
                    event_schema("M", args={"type": "object", "required": ["name"]}),
                    event_schema("s", cat=NAME, id={"type": "integer"}, ts=WHEN),
                    event_schema("f", cat=NAME, id={"type": "integer"}, ts=WHEN, bp={"const": "e"}),
                ],
            },
        },
    },
}
"""Complete slices, names of processes and threads, and flows, as in Trace Event Format."""


def node(name: str, stage: int, times: Times, **fields: Any) -> CallNode:
    known: dict[str, Any] = {
        "call_id": f"call_{name}",
        "name": name,
        "model": "m",
        "state": "done",
        "stage": stage,
        "objective": "latency",
        "task_group": None,
        "why": "",
        "engine_id": "main",
        "attempt": 1,
        "times": times,
        "tokens": Tokens(prompt=1000, shared=250, ahead=200, output=50),
        "inputs": {},
        "outputs": {"out": f"var_{name}"},
        "why_objective": "feeds reduce, which is latency-sensitive",
        "why_engine": "done there first, in about 0.13 s, 250 tokens of its prompt are there",
    }
    return CallNode(**known | fields)


def times(submitted: float, ready: float, placed: float, first: float, done: float, **ahead: float) -> Times:
    return Times(
        submitted_s=submitted, ready_s=ready, placed_s=placed, first_token_s=first, done_s=done, **ahead
    )


MAPS = [
    node("map_0", 0, times(0.0, 0.0, 0.1, 1.0, 3.0), task_group="call_reduce/0"),
    node("map_1", 0, times(0.0, 0.0, 0.1, 1.0, 5.0), task_group="call_reduce/0", critical=True),
    node("map_2", 0, times(0.0, 0.0, 3.0, 3.5, 4.0), engine_id="second"),
]
REDUCE = node(
    "reduce",
    1,
    times(0.0, 5.0, 5.5, 6.0, 10.0, ahead_began_s=1.0, ahead_ended_s=4.0),
    critical=True,
    attempt=2,
)
WAITING = node("late", 2, Times(submitted_s=7.0), state="waiting", engine_id=None, why_engine="", slack_s=4.5)


def graph(*calls: CallNode, edges: tuple[tuple[str, str], ...] = ()) -> GraphView:
    names = {call.name for call in calls}
    return GraphView(
        session_id="ses_0",
        calls=calls,
        variables=tuple(
            VariableNode(
                variable_id=f"var_{name}",
                name=f"value of {name}",
                state="ready",
                producer=f"call_{name}",
                consumers=(),
            )
            for name in names
        ),
        edges=tuple(Edge(source=f"call_{a}", target=f"call_{b}", variable_id=f"var_{a}") for a, b in edges),
        critical_path=tuple(call.call_id for call in calls if call.critical),
        deadline_s=20.0,
    )


WHOLE = graph(*MAPS, REDUCE, WAITING, edges=(("map_0", "reduce"), ("map_1", "reduce"), ("reduce", "late")))


def explained(view: GraphView, **options: int) -> list[str]:
    return [click.unstyle(line) for line in explain_lines(view, **options)]


def test_an_explanation_says_why_and_when_in_80_columns() -> None:
    lines = explained(WHOLE)
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= WIDTH
    assert "objective latency · group reduce/0 · feeds reduce, which is latency-sensitive" in text
    assert "engine main · attempt 2 · done there first" in text
    assert "submitted 0.00, ready 5.00, placed 5.50, first token 6.00, done 10.00 s" in text
    assert "prompt 1,000 = 750 filled + 250 shared (200 of them filled ahead) · output 50" in text
    assert "slack 4.5 s to spare before the deadline" in text
    assert "critical path: map_1 → reduce" in text
    assert "on it: 0.60 s waiting for engines, 1.4 s prefill, 8.0 s decode" in text


def test_a_deadline_that_cannot_be_kept_is_told() -> None:
    late = WAITING.model_copy(update={"slack_s": -2.0})
    assert any("2.0 s too little for the deadline" in line for line in explained(graph(late)))


def test_a_failed_calls_error_is_told_in_80_columns() -> None:
    error = ErrorBody(code="upstream_failed", message="a reason " * 30)
    lines = explained(graph(REDUCE.model_copy(update={"state": "failed", "error": error})))
    assert any("error      upstream_failed: a reason" in line for line in lines)
    assert max(map(len, lines)) <= WIDTH


def test_a_wide_stage_is_cut_and_keeps_what_is_critical() -> None:
    calls = [node(f"map_{n}", 0, times(0.0, 0.0, 0.1, 1.0, 3.0), critical=n == 29) for n in range(30)]
    lines = explained(graph(*calls), max_calls=5)
    assert [line.split()[-2] for line in lines if line.endswith("done") and "●" in line] == [
        "map_0",
        "map_1",
        "map_2",
        "map_3",
        "map_29",
    ]
    assert "    … 25 more" in lines


def test_a_graph_without_calls_is_explained() -> None:
    assert explained(graph())[-1].startswith("0 calls")


def test_a_call_waits_is_filled_and_generates_in_that_order() -> None:
    found = [(span.phase, span.begin_s, span.end_s) for span in spans(REDUCE.times)]
    assert found == [
        ("inputs", 0.0, 5.0),
        ("ahead", 1.0, 4.0),
        ("engine", 5.0, 5.5),
        ("prefill", 5.5, 6.0),
        ("decode", 6.0, 10.0),
    ]


def test_what_was_filled_for_others_before_a_call_was_submitted_is_not_its_own() -> None:
    earlier = times(5.0, 6.0, 6.0, 6.5, 7.0, ahead_began_s=1.0, ahead_ended_s=4.0)
    assert "ahead" not in [span.phase for span in spans(earlier)]


def test_a_timeline_is_on_one_scale_and_ends_with_its_legend() -> None:
    *bars, legend = timeline_lines(WHOLE)
    assert legend == LEGEND
    assert bars[3].split() == [
        "▸",
        "reduce",
        "·····▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒·····░░░▒▒████████████████████",
        "10.0",
        "s",
    ]
    assert bars[1].startswith("▸ map_1")
    assert bars[0].count("█") == 10
    assert max(map(len, [*bars, legend])) <= WIDTH


def test_a_timeline_of_nothing_is_empty() -> None:
    assert list(timeline_lines(graph(WAITING))) == []


def events(view: GraphView, kind: str) -> list[dict[str, Any]]:
    found = chrome_trace(view)["traceEvents"]
    assert isinstance(found, list)
    return [event for event in found if event["ph"] == kind]


def test_a_trace_is_as_the_format_says() -> None:
    trace = fastjsonschema.compile(TRACE_SCHEMA)(json.loads(json.dumps(chrome_trace(WHOLE))))
    assert {event["ph"] for event in trace["traceEvents"]} == {"X", "M", "s", "f"}


def test_slices_of_one_lane_lie_inside_or_beside_each_other() -> None:
    lanes: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in events(WHOLE, "X"):
        lanes.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert len(lanes) == 4
    overlapping = [
        (one, other)
        for slices in lanes.values()
        for one, other in permutations(slices, 2)
        if one[0] < other[0] < one[1] < other[1]
    ]
    assert overlapping == []


def test_each_engine_is_a_process_of_the_trace() -> None:
    names = {e["args"]["name"]: e["pid"] for e in events(WHOLE, "M") if e["name"] == "process_name"}
    assert set(names) == {"engine main", "engine second"}
    assert {e["name"] for e in events(WHOLE, "X") if e["pid"] == names["engine second"]} >= {
        "map_2",
        "waiting",
    }


def test_a_calls_slice_holds_its_phases_and_its_explanation() -> None:
    (outer,) = [event for event in events(WHOLE, "X") if event["name"] == "reduce"]
    lane = [e for e in events(WHOLE, "X") if (e["pid"], e["tid"]) == (outer["pid"], outer["tid"])]
    inside = [
        e["name"]
        for e in lane
        if e is not outer and outer["ts"] <= e["ts"] and e["ts"] + e["dur"] <= outer["ts"] + outer["dur"]
    ]
    assert {"filled ahead", "waiting", "prefill", "decode"} <= set(inside)
    assert outer["args"]["why_engine"] == REDUCE.why_engine
    assert outer["args"]["tokens"]["ahead"] == 200
    assert outer["args"]["critical"] is True


def test_arrows_lead_from_a_producers_slice_to_a_consumers() -> None:
    starts, ends = events(WHOLE, "s"), events(WHOLE, "f")
    assert [event["id"] for event in starts] == [event["id"] for event in ends]
    assert {event["name"] for event in starts} == {"value of map_0", "value of map_1"}
    slices = {event["name"]: event for event in events(WHOLE, "X")}
    for start, end in zip(starts, ends, strict=True):
        producer = slices[start["name"].removeprefix("value of ")]
        assert (start["pid"], start["tid"]) == (producer["pid"], producer["tid"])
        assert producer["ts"] <= start["ts"] < producer["ts"] + producer["dur"]
        assert slices["reduce"]["ts"] <= end["ts"] < slices["reduce"]["ts"] + slices["reduce"]["dur"]
        assert start["ts"] <= end["ts"]


def test_a_trace_of_nothing_is_a_trace() -> None:
    assert chrome_trace(graph(WAITING))["traceEvents"] == []
