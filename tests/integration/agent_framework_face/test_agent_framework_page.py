"""The page about Agent Framework: its programs run."""

import pytest

pytest.importorskip(
    "agent_framework_openai", reason="needs the extra agent-framework: nox -s agent_framework"
)

from framework_pages import run_page


def test_the_programs_of_the_page_run(url: str) -> None:
    assert "'model': (1, 'join/1')" in run_page("how-to/agent-framework.md", url)
