"""DSPy through the OpenAI-compatible routes."""

import pytest
from recipe_service import Recipe

pytest.importorskip("dspy", reason="DSPy is not installed: nox -s dspy")

pytestmark = pytest.mark.timeout(400)

FIELD = "[[ ## {name} ## ]]\n{text}\n\n[[ ## completed ## ]]"


ANSWERS = {
    "[[ ## paragraph ## ]]": FIELD.format(name="paragraph", text="A man goes to sea."),
    "[[ ## summary ## ]]": FIELD.format(name="summary", text="Ishmael sails."),
}


def test_the_page_runs_and_the_service_sees_what_it_says(recipe: Recipe) -> None:
    (printed,) = recipe.run_page("how-to/dspy.md")
    assert printed.strip() == "A man goes to sea."
    asked = recipe.asked("/v1/chat/completions")
    assert len(asked) == 4
    assert {request.headers["x-dynamo-session-id"] for request in asked} == {"report-1"}
    assert [request.body.get("service_tier") for request in asked] == ["flex"] * 3 + [None]
    assert [request.body.get("parrot") for request in asked] == [{"group": "summaries"}] * 3 + [None]
    beginnings = {request.body["messages"][0]["content"] for request in asked[:3]}
    assert len(beginnings) == 1
    assert "Ishmael sails." in asked[3].body["messages"][-1]["content"]
