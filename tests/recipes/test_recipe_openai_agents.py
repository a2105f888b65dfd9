"""OpenAI's Agents SDK through the OpenAI-compatible routes."""

import pytest
from recipe_service import Recipe

pytest.importorskip("agents", reason="the Agents SDK is not installed: nox -s openai_agents")

pytestmark = pytest.mark.timeout(400)

ANSWERS = {
    "rain in Paris": "It rains in Paris.",
    "How is the weather in Paris?": '{"name": "weather", "arguments": {"city": "Paris"}}',
    "Tell me about Paris.": "It is a city.",
}


def test_the_page_runs_and_the_service_sees_what_it_says(recipe: Recipe) -> None:
    (printed,) = recipe.run_page("how-to/openai-agents.md")
    report, advice, told = printed.strip().splitlines()
    assert report == "It rains in Paris."
    assert advice in {f"take='{one}'" for one in ("umbrella", "hat", "coat")}
    assert told == "It is a city."
    asked = recipe.asked("/v1/responses")
    assert len(asked) == 4
    assert any(item.get("type") == "function_call_output" for item in asked[1].body["input"])
    assert asked[2].body["text"]["format"]["type"] == "json_schema"
    assert {request.headers["x-dynamo-session-id"] for request in asked} == {"trip-1"}
