"""Graphs join the service's calls and this program's native functions, and draw themselves."""

import xml.etree.ElementTree as ET

from parrot.sdk.graph import Graph, NativeCall, build_graph
from parrot.wire.answers import CallNode, Edge, GraphView, Times, Tokens, VariableNode


def call(ident: str, name: str, inputs: dict[str, str], outputs: dict[str, str]) -> CallNode:
    return CallNode(
        call_id=ident,
        name=name,
        model="m",
        state="done",
        stage=0,
        objective="latency",
        task_group=None,
        why="",
        engine_id="e",
        attempt=1,
        times=Times(submitted_s=0),
        tokens=Tokens(prompt=9, shared=4, output=3),
        inputs=inputs,
        outputs=outputs,
    )


def variable(ident: str, producer: str | None) -> VariableNode:
    return VariableNode(
        variable_id=ident, name=f"name_{ident}", state="ready", producer=producer, consumers=()
    )


def view() -> GraphView:
    return GraphView(
        session_id="s",
        calls=(
            call("call_3", "reduce", {"all": "v_joined"}, {"out": "v_out"}),
            call("call_1", "map", {"text": "v_text"}, {"out": "v_1"}),
            call("call_2", "map", {"text": "v_text"}, {"out": "v_2"}),
        ),
        variables=(
            variable("v_text", None),
            variable("v_1", "call_1"),
            variable("v_2", "call_2"),
            variable("v_joined", None),
            variable("v_out", "call_3"),
        ),
        edges=(Edge(source="call_1", target="call_2", variable_id="v_1"),),
    )


def graph() -> Graph:
    native = NativeCall(
        name="join_<4>", state="done", output="name_v_joined", inputs=("name_v_1", "name_v_2")
    )
    return build_graph(view(), [native])


def test_native_functions_stand_between_the_calls_they_link() -> None:
    stages = [[node.name for node in stage] for stage in graph().stages()]
    assert stages == [["map#call_1", "map#call_2"], ["join_<4>"], ["reduce"]]
    assert {(edge.source, edge.target) for edge in graph().edges} == {
        ("map#call_1", "join_<4>"),
        ("map#call_2", "join_<4>"),
        ("join_<4>", "reduce"),
    }


def test_text_shows_stages_states_and_sources() -> None:
    assert str(graph()).split("\n") == [
        "stage 0",
        "  ✓ map#call_1",
        "  ✓ map#call_2",
        "stage 1",
        "  ✓ join_<4> (native) ← map#call_1, map#call_2",
        "stage 2",
        "  ✓ reduce ← join_<4>",
    ]
    assert str(Graph((), ())) == "(no calls)"


def test_drawing_is_well_formed_with_a_box_a_node_and_a_line_an_edge() -> None:
    root = ET.fromstring(graph()._repr_svg_())
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert (names.count("rect"), names.count("path")) == (4, 3)
    assert graph()._repr_svg_() in graph()._repr_html_()
