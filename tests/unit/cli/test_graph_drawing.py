"""The application graph in the terminal."""

import click
import pytest

from parrot.cli.demo.view import graph_rows
from parrot.cli.graph import graph_lines
from parrot.wire.answers import CallNode, Edge, ErrorBody, GraphView, Times, Tokens


def call(
    name: str, stage: int, state: str = "done", *, error: ErrorBody | None = None, output: int = 50
) -> CallNode:
    return CallNode(
        call_id=f"call_{name}",
        name=name,
        model="m",
        state=state,
        stage=stage,
        objective="latency",
        task_group=None,
        why="",
        engine_id="main",
        attempt=1,
        times=Times(submitted_s=0.0, ready_s=1.0, done_s=3.5),
        tokens=Tokens(prompt=1000, shared=250, output=output),
        inputs={},
        outputs={},
        error=error,
    )


def graph(calls: list[CallNode], edges: list[tuple[str, str]]) -> GraphView:
    return GraphView(
        session_id="ses_0",
        calls=tuple(calls),
        variables=(),
        edges=tuple(Edge(source=f"call_{a}", target=f"call_{b}", variable_id="var_0") for a, b in edges),
    )


def drawn(view: GraphView, max_calls: int = 12) -> list[str]:
    return [click.unstyle(line) for line in graph_lines(view, max_calls=max_calls)]


def test_calls_stand_under_their_stage_with_what_they_wait_for() -> None:
    lines = drawn(
        graph(
            [call("map_0", 0), call("map_1", 0), call("reduce", 1)],
            [("map_0", "reduce"), ("map_1", "reduce")],
        )
    )
    assert [line.split()[0] for line in lines[1:6]] == ["stage", "●", "●", "stage", "●"]
    assert lines[6].strip() == "← map_0, map_1"
    assert lines[-1] == "3 calls, 2 edges · 3,000 prompt tokens, 750 shared (25%) · 150 generated"
    assert "2.5 s" in lines[2]


def test_a_wide_stage_is_cut_and_says_so() -> None:
    lines = drawn(graph([call(f"map_{n}", 0) for n in range(30)], []), max_calls=12)
    assert "    … 18 more" in lines
    assert sum("map_" in line for line in lines) == 12


def test_every_line_fits_into_80_columns() -> None:
    names = [f"a_rather_long_name_of_a_call_{n}" for n in range(40)]
    error = ErrorBody(code="transform_bad_json", message="a long reason " * 20)
    calls = [call(name, 0) for name in names] + [call("reduce", 1, "failed", error=error)]
    lines = drawn(graph(calls, [(name, "reduce") for name in names]))
    assert max(map(len, lines)) <= 80


def test_an_empty_graph_is_drawn() -> None:
    assert drawn(graph([], []))[-1].startswith("0 calls")


@pytest.mark.parametrize(("output", "mark"), [(0, "▁"), (12, "▅"), (24, "█")])
def test_a_running_call_grows_with_its_tokens(output: int, mark: str) -> None:
    (row,) = graph_rows(graph([call("note_1", 0, "running", output=output)], []))
    assert mark in row.plain
    assert "note" in row.plain
