"""A service for Agent Framework's agents and workflows."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from scripted_service import scripted_service

from parrot.engine.scripted_config import ScriptedAnswer, ScriptedConfig

_CALL = json.dumps({"name": "opening", "arguments": {"day": "Monday"}})
ANSWERS = (
    ScriptedAnswer(pattern="open at nine", answer="It opens at nine."),
    ScriptedAnswer(pattern="When does the zoo open", answer=_CALL),
    ScriptedAnswer(pattern="As JSON", answer='{"animal": "parrot"}'),
)


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """A service whose answers follow from the text of the prompt."""
    config = ScriptedConfig(key="text", answers=ANSWERS, answer_words=8, tokens_per_step=4)
    with scripted_service(config) as address:
        yield address


@pytest.fixture
async def chat(url: str) -> AsyncIterator[Callable[..., Any]]:
    """Makes clients, and closes their connections."""
    from parrot.integrations.agent_framework import ParrotChatClient

    made: list[ParrotChatClient] = []

    def make(model: str = "scripted", *, url: str = url, **options: Any) -> ParrotChatClient:
        made.append(ParrotChatClient(model, base_url=f"{url}/v1", **options))
        return made[-1]

    yield make
    for each in made:
        await each.client.close()
