"""An application's graph for people: nodes, edges, as text and as a drawing."""

import html
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from parrot.wire.answers import GraphView

State = Literal["waiting", "ready", "running", "done", "failed", "cancelled"]

_COLOURS: dict[State, str] = {
    "waiting": "#e0e0e0",
    "ready": "#cfe2f3",
    "running": "#fff2cc",
    "done": "#d9ead3",
    "failed": "#f4cccc",
    "cancelled": "#d0cece",
}
_SIGNS: dict[State, str] = {
    "waiting": "·",
    "ready": "○",
    "running": "▶",
    "done": "✓",
    "failed": "✗",
    "cancelled": "–",
}
_BOX = (168, 40)
_GAP = (56, 18)
_MARGIN = 12
_MAX_LABEL_CHARS = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A call of the service, or a native function of this program."""

    name: str
    """Unique in the graph."""
    kind: Literal["call", "native"]
    state: State
    stage: int = 0
    """Longest path from a node without inputs from others."""
    engine_id: str | None = None
    num_prompt_tokens: int = 0
    num_shared_tokens: int = 0
    num_output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A variable that one node produces and another consumes."""

    source: str
    target: str
    variable: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeCall:
    """A native function's call, as this program knows it."""

    name: str
    state: State
    output: str
    """Its variable's name."""
    inputs: tuple[str, ...]
    """Names of the variables it consumes."""


@dataclass(frozen=True, slots=True)
class Graph:
    """The application graph at one moment. Prints as text; draws itself in a notebook."""

    nodes: tuple[Node, ...]
    """By stage, then in order of submission."""
    edges: tuple[Edge, ...]

    def stages(self) -> tuple[tuple[Node, ...], ...]:
        """The nodes, stage by stage."""
        columns: defaultdict[int, list[Node]] = defaultdict(list)
        for node in self.nodes:
            columns[node.stage].append(node)
        return tuple(tuple(columns[stage]) for stage in sorted(columns))

    def __str__(self) -> str:
        sources: defaultdict[str, list[str]] = defaultdict(list)
        for edge in self.edges:
            if edge.source not in sources[edge.target]:
                sources[edge.target].append(edge.source)
        lines: list[str] = []
        for stage, nodes in enumerate(self.stages()):
            lines.append(f"stage {stage}")
            for node in nodes:
                kind = "" if node.kind == "call" else " (native)"
                before = f" ← {', '.join(sources[node.name])}" if sources[node.name] else ""
                lines.append(f"  {_SIGNS[node.state]} {node.name}{kind}{before}")
        return "\n".join(lines) or "(no calls)"

    def _repr_svg_(self) -> str:
        """The graph as SVG: one column a stage, edges from left to right."""
        places = {
            node.name: (_MARGIN + column * (_BOX[0] + _GAP[0]), _MARGIN + row * (_BOX[1] + _GAP[1]))
            for column, nodes in enumerate(self.stages())
            for row, node in enumerate(nodes)
        }
        width = max((x for x, _ in places.values()), default=0) + _BOX[0] + _MARGIN
        height = max((y for _, y in places.values()), default=0) + _BOX[1] + _MARGIN
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
        )
        parts = [_draw_edge(places[edge.source], places[edge.target], edge) for edge in self.edges]
        parts += [_draw_node(places[node.name], node) for node in self.nodes]
        return "".join((head, *parts, "</svg>"))

    def _repr_html_(self) -> str:
        """The drawing, in a box that scrolls."""
        return f'<div style="overflow:auto;max-height:40em">{self._repr_svg_()}</div>'


def build_graph(view: GraphView, natives: Sequence[NativeCall]) -> Graph:
    """Join what the service knows with the native functions of this program."""
    call_names = _unique((call.call_id, call.name) for call in view.calls)
    names = {variable.variable_id: variable.name or variable.variable_id for variable in view.variables}
    producers = {
        names[variable.variable_id]: call_names[variable.producer]
        for variable in view.variables
        if variable.producer in call_names
    } | {native.output: native.name for native in natives}
    nodes = [
        Node(
            name=call_names[call.call_id],
            kind="call",
            state=call.state,
            engine_id=call.engine_id,
            num_prompt_tokens=call.tokens.prompt,
            num_shared_tokens=call.tokens.shared,
            num_output_tokens=call.tokens.output,
        )
        for call in view.calls
    ]
    nodes += [Node(name=native.name, kind="native", state=native.state) for native in natives]
    consumed = [
        (call_names[call.call_id], names[variable_id])
        for call in view.calls
        for variable_id in dict.fromkeys(call.inputs.values())
        if variable_id in names
    ] + [(native.name, variable) for native in natives for variable in native.inputs]
    edges = tuple(
        Edge(source=producers[variable], target=target, variable=variable)
        for target, variable in consumed
        if variable in producers
    )
    stages = _stages([node.name for node in nodes], edges)
    staged = [replace(node, stage=stages[node.name]) for node in nodes]
    return Graph(tuple(sorted(staged, key=lambda node: node.stage)), edges)


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Identifier → name; a name that two calls have is followed by the identifier's end."""
    found = list(pairs)
    counts: defaultdict[str, int] = defaultdict(int)
    for _, name in found:
        counts[name] += 1
    return {ident: name if counts[name] == 1 else f"{name}#{ident[-6:]}" for ident, name in found}


def _stages(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Longest-path layering by Kahn's algorithm."""
    stages = dict.fromkeys(names, 0)
    missing = dict.fromkeys(names, 0)
    targets: defaultdict[str, list[str]] = defaultdict(list)
    for edge in edges:
        missing[edge.target] += 1
        targets[edge.source].append(edge.target)
    free = [name for name in names if missing[name] == 0]
    while free:
        name = free.pop()
        for target in targets[name]:
            stages[target] = max(stages[target], stages[name] + 1)
            missing[target] -= 1
            if missing[target] == 0:
                free.append(target)
    return stages


def _draw_edge(source: tuple[int, int], target: tuple[int, int], edge: Edge) -> str:
    x1, y1 = source[0] + _BOX[0], source[1] + _BOX[1] // 2
    x2, y2 = target[0], target[1] + _BOX[1] // 2
    bend = max(_GAP[0] // 2, (x2 - x1) // 2)
    return (
        f'<path d="M{x1},{y1} C{x1 + bend},{y1} {x2 - bend},{y2} {x2},{y2}" fill="none" stroke="#888">'
        f"<title>{html.escape(edge.variable)}</title></path>"
    )


def _draw_node(place: tuple[int, int], node: Node) -> str:
    x, y = place
    label = node.name if len(node.name) <= _MAX_LABEL_CHARS else node.name[: _MAX_LABEL_CHARS - 1] + "…"
    dash = ' stroke-dasharray="4 2"' if node.kind == "native" else ""
    detail = f"native, {node.state}" if node.kind == "native" else str(node.state)
    if node.num_output_tokens:
        detail += (
            f" · {node.num_prompt_tokens} in, {node.num_shared_tokens} shared, {node.num_output_tokens} out"
        )
    return (
        f"<g><title>{html.escape(f'{node.name}: {detail}')}</title>"
        f'<rect x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="5" fill="{_COLOURS[node.state]}" '
        f'stroke="#555"{dash}/>'
        f'<text x="{x + 8}" y="{y + 17}">{html.escape(label)}</text>'
        f'<text x="{x + 8}" y="{y + 32}" fill="#555" font-size="9">{html.escape(node.state)}</text></g>'
    )
