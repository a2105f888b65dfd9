"""The page about the Model Context Protocol."""

import pytest
from recipe_service import Recipe

pytest.importorskip("mcp", reason="needs the extra mcp: nox -s mcp")

pytestmark = pytest.mark.timeout(400)

ANSWERS = {"Text: Good morning": "Bonum mane"}


def test_the_page_runs_and_the_service_sees_what_it_says(recipe: Recipe) -> None:
    (printed,) = recipe.run_page("how-to/mcp.md")
    assert "translate - Translates a text. ['text']" in printed
    assert "{'translation': 'Bonum mane'}" in printed
    runs = [request.body["session"] for request in recipe.asked("/v1/run")]
    assert [session["name"] for session in runs if session.get("name")] == ["mcp translate"]
