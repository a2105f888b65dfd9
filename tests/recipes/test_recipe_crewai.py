"""CrewAI through the OpenAI-compatible routes."""

import pytest
from recipe_service import Recipe

pytest.importorskip("crewai", reason="CrewAI is not installed: nox -s crewai")

pytestmark = pytest.mark.timeout(400)

ANSWERS = {
    "Write a line for the brochure.": "Thought: done\nFinal Answer: It has seats.",
    "Note what matters about the": "Thought: done\nFinal Answer: It has wheels.",
}


def test_the_page_runs_and_the_service_sees_what_it_says(recipe: Recipe) -> None:
    (printed,) = recipe.run_page("how-to/crewai.md")
    assert "It has seats." in printed.splitlines()[-1]
    asked = recipe.asked("/v1/chat/completions")
    assert len(asked) == 4
    assert [request.body.get("service_tier") for request in asked] == ["flex"] * 3 + [None]
    assert [request.body.get("parrot") for request in asked] == [{"group": "notes"}] * 3 + [None]
    assert len({request.body["messages"][0]["content"] for request in asked[:3]}) == 1
    assert "It has wheels." in asked[3].body["messages"][-1]["content"]
    assert {request.headers["x-dynamo-session-id"] for request in asked} == {"brochure-1"}
