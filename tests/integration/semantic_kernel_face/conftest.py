"""A service for Semantic Kernel's functions."""

import json
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from scripted_service import scripted_service

from parrot.engine.scripted_config import ScriptedAnswer, ScriptedConfig

with warnings.catch_warnings(), suppress(ImportError):
    # The framework's own, when it is loaded.
    warnings.simplefilter("ignore")
    import semantic_kernel.connectors.ai.open_ai  # noqa: F401

_CALL = json.dumps({"name": "clock-on", "arguments": {"day": "Monday"}})
ANSWERS = (
    ScriptedAnswer(pattern="open at nine", answer="It opens at nine."),
    ScriptedAnswer(pattern="When does the zoo open", answer=_CALL),
    ScriptedAnswer(pattern="Answer with markup", answer="<b>bold</b> & more"),
)


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """A service whose answers follow from the text of the prompt."""
    with scripted_service(
        ScriptedConfig(key="text", answers=ANSWERS, answer_words=8, tokens_per_step=4)
    ) as address:
        yield address


@pytest.fixture
async def chat(url: str) -> AsyncIterator[Callable[..., Any]]:
    """Makes connectors, and closes their connections."""
    from parrot.integrations.semantic_kernel import ParrotChatCompletion

    made: list[ParrotChatCompletion] = []

    def make(model: str = "scripted", *, url: str = url, **options: Any) -> ParrotChatCompletion:
        made.append(ParrotChatCompletion(model, base_url=f"{url}/v1", **options))
        return made[-1]

    yield make
    for each in made:
        await each.client.close()
