"""Pydantic AI through the OpenAI-compatible routes, with made-up words and with a model."""

import subprocess
import sys
from pathlib import Path

import pytest
from recipe_service import Recipe, recipe_service

pytest.importorskip("pydantic_ai", reason="Pydantic AI is not installed: nox -s pydantic_ai")

pytestmark = pytest.mark.timeout(400)

PAGE = "how-to/pydantic-ai.md"


def check(recipe: Recipe) -> None:
    """Run the page; see what it printed and what it sent."""
    (printed,) = recipe.run_page(PAGE)
    lines = printed.splitlines()
    assert len(lines) >= 5
    for line in lines[:4]:
        assert line.startswith("kind='")
    chats, responses = recipe.asked("/v1/chat/completions"), recipe.asked("/v1/responses")
    assert [request.body.get("service_tier") for request in chats] == ["flex"] * 3 + [None]
    assert [request.body.get("parrot") for request in chats] == [{"group": "sorting"}] * 3 + [None]
    assert chats[0].body["response_format"]["type"] == "json_schema"
    assert chats[3].body["tools"]
    assert [request.body["stream"] for request in responses] == [True]
    assert {request.headers["x-dynamo-session-id"] for request in recipe.requests} == {"letters-1"}


def test_the_page_runs_and_the_service_sees_what_it_says(recipe: Recipe) -> None:
    check(recipe)


def test_the_page_runs_with_a_model(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    model = tmp_path / "tiny"
    subprocess.run(
        [sys.executable, "-m", "parrot.cli", "models", "init", "tiny", str(model)], check=True, timeout=100
    )
    arguments = ["--model", str(model), "--name", "scripted", "--device", "cpu"]
    with recipe_service(tmp_path, arguments, {}) as recipe:
        check(recipe)
