"""A team of roles with OpenAI's SDK, as a loop and as one graph."""

import json
import urllib.request
from itertools import pairwise

import pytest
from recipe_service import Recipe

pytest.importorskip("openai", reason="OpenAI's SDK is not installed: nox -s team")

pytestmark = pytest.mark.timeout(400)

ANSWERS = {
    "Summarise the review.": "All is well.",
    "Review the files.": "The files are fine.",
    "Design the program.": "Three files.",
}


def test_the_page_runs_and_the_service_sees_what_it_says(recipe: Recipe) -> None:
    printed = recipe.run_page("how-to/agent-team.md")
    assert printed == ["All is well.\n"] * 2
    asked = recipe.asked("/v1/chat/completions")
    loop, graph = asked[:6], asked[6:]
    assert [request.headers.get("x-dynamo-session-id") for request in loop] == ["snake-1"] * 6
    assert [request.body.get("parrot") for request in loop[1:4]] == [{"group": "files"}] * 3
    assert loop[1].body["messages"][1]["content"] == "Three files."
    assert len({request.body["parrot"]["session_id"] for request in graph}) == 1
    assert sum(request.body["parrot"]["wait"] for request in graph) == 1
    assert all("Three files." not in str(request.body) for request in graph)


def test_the_graph_has_the_teams_edges(recipe: Recipe) -> None:
    recipe.run_page("how-to/agent-team.md")
    session = recipe.asked("/v1/chat/completions")[-1].body["parrot"]["session_id"]
    with urllib.request.urlopen(f"{recipe.url}/v1/sessions/{session}/graph", timeout=30) as answer:
        graph = json.load(answer)
    stages = sorted(call["stage"] for call in graph["calls"])
    assert len(graph["calls"]) == 6
    assert all(later - earlier in (0, 1) for earlier, later in pairwise(stages))
    assert len(set(stages)) == 4
