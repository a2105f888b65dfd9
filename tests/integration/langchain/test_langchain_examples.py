"""The patterns of the example: the same values both ways, and the graphs that their data flow has."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_openai", reason="needs the extra langchain: nox -s langchain")
pytest.importorskip("langgraph", reason="needs langgraph: nox -s langchain")

from parrot.integrations.langchain import ChatParrot, lazy

EXAMPLE = Path(__file__).parents[3] / "examples" / "langchain" / "patterns.py"
SHAPES = {"stuff": (1, 0), "map-reduce": (9, 8), "refine": (8, 7), "retrieval": (3, 1), "team": (5, 6)}
"""Calls and edges of each pattern; retrieval reads the query, so nothing that follows depends on its call."""


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    sys.path.insert(0, str(EXAMPLE.parent))
    return runpy.run_path(str(EXAMPLE))


@pytest.mark.parametrize("name", SHAPES)
def test_a_pattern_gives_the_same_lazily_as_one_graph(example: dict[str, Any], url: str, name: str) -> None:
    model = ChatParrot(model="scripted", base_url=f"{url}/v1", max_tokens=6)
    chain, given = example["PATTERNS"][name](model, "Be brief.")
    made = lazy(chain, keep_graph=True)
    assert made.invoke(given) == chain.invoke(given)
    (graph,) = made.last_graphs
    assert (len(graph.nodes), len(graph.edges)) == SHAPES[name]


def test_the_example_prints_what_each_way_took(example: dict[str, Any], url: str, capsys: Any) -> None:
    found = example["main"](url, "scripted", "0.01")
    assert list(found) == list(SHAPES)
    assert "map-reduce" in capsys.readouterr().out
