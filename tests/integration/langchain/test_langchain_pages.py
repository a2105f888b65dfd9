"""The pages about LangChain: their programs run, a page's blocks one after the other."""

from pathlib import Path

import pytest

pytest.importorskip("langchain_openai", reason="needs the extra langchain: nox -s langchain")

from documents import blocks

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("page", ["how-to/langchain.md", "tutorials/langchain.md"])
def test_the_programs_of_a_page_run(page: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = [b for b in blocks(DOCS / page) if b.language == "python" and b.not_run is not None]
    program: dict[str, object] = {"__name__": "page"}
    for block in found:
        exec(block.code.replace("http://127.0.0.1:8321", url), program)
    assert len(found) == 2
    assert capsys.readouterr().out.strip()
