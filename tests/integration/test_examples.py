"""Every example runs as it stands, against the scripted engine in this process."""

import asyncio
import inspect
import runpy
from pathlib import Path
from typing import Any

import pytest

from parrot.sdk import embedding

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def scripted_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is not given means an embedded service with the scripted engine."""
    start = embedding.starter()
    assert start is not None
    monkeypatch.setattr(
        embedding, "_starters", [lambda *, model, engine: start(model=model, engine=engine or "scripted")]
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_gives_text(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main: Any = runpy.run_path(str(path))["main"]
    result = asyncio.run(main()) if inspect.iscoroutinefunction(main) else main(questions=["Hi?", "Why?"])
    printed = capsys.readouterr().out
    assert result
    assert len(printed) > 20


def test_each_example_says_what_it_shows_and_how_to_run_it() -> None:
    assert len(EXAMPLES) == 9
    for path in EXAMPLES:
        assert f"python examples/{path.name} [URL]" in path.read_text(encoding="utf-8").split('"""')[1]
