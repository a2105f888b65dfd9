"""LlamaIndex through the OpenAI-compatible routes."""

import pytest
from recipe_service import Recipe

pytest.importorskip("llama_index.core", reason="LlamaIndex is not installed: nox -s llama_index")

pytestmark = pytest.mark.timeout(400)

ANSWERS = {"about a whale": "There she blows!", "What happens?": "A man goes to sea."}


def test_the_page_runs_and_the_service_sees_what_it_says(recipe: Recipe) -> None:
    (printed,) = recipe.run_page("how-to/llama-index.md")
    summary, genre, story = printed.strip().splitlines()
    assert summary == "A man goes to sea."
    assert genre in {f"genre='{one}'" for one in ("novel", "poem", "play")}
    assert story == "There she blows!"
    *summaries, structured, streamed = recipe.asked("/v1/chat/completions")
    assert len(summaries) > 2
    assert {request.body["service_tier"] for request in summaries} == {"flex"}
    assert all(request.body["parrot"] == {"group": "summary"} for request in summaries)
    assert structured.body["tools"]
    assert streamed.body["stream"] is True
    headers = {request.headers["x-dynamo-session-id"] for request in recipe.requests}
    assert headers == {"book-1"}
