"""The pages about LangChain: their programs run, a page's blocks one after the other."""

import pytest

pytest.importorskip("langchain_openai", reason="needs the extra langchain: nox -s langchain")

from framework_pages import run_page


@pytest.mark.parametrize("page", ["how-to/langchain.md", "tutorials/langchain.md"])
def test_the_programs_of_a_page_run(page: str, url: str) -> None:
    assert "stage 1" in run_page(page, url)
