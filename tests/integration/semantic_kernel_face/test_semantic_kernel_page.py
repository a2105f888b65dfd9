"""The page about Semantic Kernel: its programs run."""

import pytest

pytest.importorskip("semantic_kernel", reason="needs the extra semantic-kernel: nox -s semantic_kernel")

from framework_pages import run_page


def test_the_programs_of_the_page_run(url: str) -> None:
    printed = run_page("how-to/semantic-kernel.md", url)
    assert "['letters-summary', 'letters-tone', 'letters-answer'] [(0, 2), (1, 2)]" in printed
    assert "letters_answer_3" in printed
