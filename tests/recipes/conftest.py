"""A service for the programs of one page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from recipe_service import Recipe, recipe_service


@pytest.fixture
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Recipe]:
    """A scripted service, which answers to prompts that contain something what the module's `ANSWERS` say."""
    with recipe_service(
        tmp_path, ["--engine", "scripted"], getattr(request.module, "ANSWERS", {})
    ) as running:
        yield running
