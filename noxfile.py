"""Sessions that need an environment of their own: clients whose dependencies do not go together.

`nox -s openai2 openai3` tests the OpenAI-compatible routes with both generations of OpenAI's SDK.
`nox -s langchain` tests the LangChain integration, LangChain's own suites among the tests.
"""

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["openai2", "openai3", "langchain"]

PYTEST = ("pytest>=8.4", "pytest-asyncio>=1", "pytest-timeout>=2.3")


def _openai(session: nox.Session, version: str) -> None:
    session.install("-c", "constraints.txt", "-e", ".", *PYTEST)
    session.install(f"openai~={version}")
    session.run(
        "python", "-m", "pytest", "tests/integration/openai_face/test_openai_sdk.py", *session.posargs
    )


@nox.session
def openai2(session: nox.Session) -> None:
    """The SDK's second generation."""
    _openai(session, "2.54")


@nox.session
def openai3(session: nox.Session) -> None:
    """The SDK's third generation."""
    _openai(session, "3.54")


@nox.session
def langchain(session: nox.Session) -> None:
    """LangChain and LangGraph."""
    session.install("-c", "constraints.txt", "-e", ".[langchain]", "hypothesis>=6.130", *PYTEST)
    session.install("-c", "constraints.txt", "langchain-tests>=1.1,<2", "langgraph>=1,<2")
    session.run("python", "-m", "pytest", "tests/integration/langchain", *session.posargs)
