"""Sessions that need an environment of their own: clients whose dependencies do not go together.

`nox -s openai2 openai3` tests the OpenAI-compatible routes with both generations of OpenAI's SDK.
`nox -s open_responses` holds responses and their events against the Open Responses specification.
`nox -s langchain` tests the LangChain integration, LangChain's own suites among the tests.
`nox -s semantic_kernel agent_framework` tests the integrations of Semantic Kernel and Agent Framework.
`nox -s dspy llama_index pydantic_ai crewai openai_agents team` runs the programs of docs/how-to that use
these frameworks through the OpenAI-compatible routes, each against a service of its own. A framework that
cannot be installed is skipped, and pip's words stand above.
`nox -s mcp` tests the server that offers registered functions as tools.
"""

import nox
from nox.command import CommandFailed

nox.options.default_venv_backend = "venv"
nox.options.sessions = [
    "openai2",
    "openai3",
    "open_responses",
    "langchain",
    "semantic_kernel",
    "agent_framework",
    "dspy",
    "llama_index",
    "pydantic_ai",
    "crewai",
    "openai_agents",
    "team",
    "mcp",
]

PYTEST = ("pytest>=8.4", "pytest-asyncio>=1", "pytest-timeout>=2.3")


def _test(session: nox.Session, *paths: str) -> None:
    """Run tests. Frameworks and services have threads of their own, so a test that hangs is ended, with the
    stacks of all threads, by a thread, too: a signal would only reach the main one.
    """
    session.run("python", "-m", "pytest", "-o", "timeout_method=thread", *paths, *session.posargs)


def _openai(session: nox.Session, version: str) -> None:
    session.install("-c", "constraints.txt", "-e", ".", *PYTEST)
    session.install(f"openai~={version}")
    _test(session, "tests/integration/openai_face/test_openai_sdk.py")


@nox.session
def openai2(session: nox.Session) -> None:
    """The SDK's second generation."""
    _openai(session, "2.54")


@nox.session
def openai3(session: nox.Session) -> None:
    """The SDK's third generation."""
    _openai(session, "3.54")


@nox.session
def open_responses(session: nox.Session) -> None:
    """The schemas of the Open Responses specification."""
    session.install("-c", "constraints.txt", "-e", ".", *PYTEST)
    session.install("openresponses-types>=2.4,<3")
    _test(session, "tests/integration/openai_face/test_open_responses.py")


@nox.session
def langchain(session: nox.Session) -> None:
    """LangChain and LangGraph."""
    session.install("-c", "constraints.txt", "-e", ".[langchain]", "hypothesis>=6.130", *PYTEST)
    session.install("-c", "constraints.txt", "langchain-tests>=1.1,<2", "langgraph>=1,<2")
    _test(session, "tests/integration/langchain")


@nox.session
def semantic_kernel(session: nox.Session) -> None:
    """Semantic Kernel; its bound on pydantic is below the tested version of the others."""
    session.install("-e", ".[semantic-kernel]", "hypothesis>=6.130", *PYTEST)
    _test(session, "tests/integration/semantic_kernel_face")


@nox.session
def agent_framework(session: nox.Session) -> None:
    """Agent Framework."""
    session.install("-c", "constraints.txt", "-e", ".[agent-framework]", *PYTEST)
    _test(session, "tests/integration/agent_framework_face")


def _recipe(session: nox.Session, name: str, *requirements: str, extras: str = "") -> None:
    pins = (
        ("-c", "constraints.txt") if extras else ()
    )  # torch is worth pinning; frameworks have pins of their own
    try:
        session.install(*pins, "-e", f".{extras}", *requirements, *PYTEST)
    except CommandFailed:
        session.skip(f"{' '.join(requirements)} cannot be installed here")
    _test(session, f"tests/recipes/test_recipe_{name}.py")


@nox.session
def dspy(session: nox.Session) -> None:
    """DSPy."""
    _recipe(session, "dspy", "dspy>=3.4,<4")


@nox.session
def llama_index(session: nox.Session) -> None:
    """LlamaIndex."""
    _recipe(session, "llama_index", "llama-index-core>=0.14,<0.15", "llama-index-llms-openai-like>=0.8,<0.9")


@nox.session
def pydantic_ai(session: nox.Session) -> None:
    """Pydantic AI; also with a model, whose output the schema bounds."""
    _recipe(session, "pydantic_ai", "pydantic-ai-slim[openai]>=2.68,<3", extras="[engine]")


@nox.session
def crewai(session: nox.Session) -> None:
    """CrewAI."""
    _recipe(session, "crewai", "crewai>=1.15,<2")


@nox.session
def openai_agents(session: nox.Session) -> None:
    """OpenAI's Agents SDK."""
    _recipe(session, "openai_agents", "openai-agents>=0.24,<0.25")


@nox.session
def team(session: nox.Session) -> None:
    """A team of roles in the manner of MetaGPT, with OpenAI's SDK alone."""
    _recipe(session, "team", "openai>=2.54,<4")


@nox.session
def mcp(session: nox.Session) -> None:
    """Registered functions as tools of the Model Context Protocol."""
    session.install("-c", "constraints.txt", "-e", ".[mcp]", *PYTEST)
    _test(session, "tests/integration/mcp_face", "tests/recipes/test_recipe_mcp.py")
