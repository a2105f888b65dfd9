"""Integrations are loaded by nobody but who asks, and say which extra they need."""

import subprocess
import sys

import pytest

NEEDED = {
    "langchain": ("langchain_core", "langchain"),
    "semantic_kernel": ("semantic_kernel", "semantic-kernel"),
    "agent_framework": ("agent_framework_openai", "agent-framework"),
}
"""By integration: a module of its framework, and its extra."""


def printed(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


@pytest.mark.parametrize("integration", NEEDED)
def test_without_its_framework_an_integration_names_its_extra(integration: str) -> None:
    module, extra = NEEDED[integration]
    program = f"""
import sys
sys.modules[{module!r}] = None
from parrot.errors import ConfigError
try:
    import parrot.integrations.{integration}
except ConfigError as error:
    print(error.code, error.message)
"""
    assert printed(program).startswith("missing_extra")
    assert f"pip install 'parrot-llm[{extra}]'" in printed(program)


def test_nothing_else_loads_a_framework() -> None:
    program = """
import sys
import parrot, parrot.cli, parrot.assembly, parrot.integrations
print(sorted(name for name in sys.modules if name.split(".")[0] in {
    "openai", "langchain_core", "langgraph", "semantic_kernel", "agent_framework"}))
"""
    assert printed(program).strip() == "[]"
