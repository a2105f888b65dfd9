"""LangChain's own suites for chat models, on `ChatParrot` and a scripted engine."""

import inspect
import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("langchain_openai", reason="needs the extra langchain: nox -s langchain")
pytest.importorskip("langchain_tests", reason="needs langchain-tests: nox -s langchain")

from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from scripted_service import scripted_service

from parrot.engine.scripted_config import ScriptedAnswer, ScriptedConfig
from parrot.integrations.langchain import ChatParrot

pytestmark = pytest.mark.filterwarnings(
    "ignore:Pydantic serializer warnings", "ignore:Received a Pydantic BaseModel V1 schema"
)
"""The framework's own."""

JOKE = '{"setup": "Why did the parrot cross the road?", "punchline": "It said so."}'


def _rule(pattern: str, name: str, **arguments: object) -> ScriptedAnswer:
    """A call of a tool as the answer to a prompt with `pattern` in it."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return ScriptedAnswer(pattern=pattern, answer=call)


ANSWERS = (
    ScriptedAnswer(pattern="Result of", answer="It is as the tool says."),
    ScriptedAnswer(pattern="It's sunny", answer="It is sunny."),
    _rule("value of magic_function(3)", "magic_function", input=3),
    _rule("value of magic_function_no_args()", "magic_function_no_args"),
    _rule("generate a Pirate greeting", "greeting_generator", answer_style="Pirate"),
    _rule("What is the weather in San Francisco", "get_weather", location="San Francisco, CA"),
    _rule("你好啊集团", "unicode_customer", customer_name="你好啊集团", description="technology"),
    _rule("こんにちは株式会社", "unicode_customer", customer_name="こんにちは株式会社", description="x"),
    _rule('"name": "Joke"', "Joke", setup="Why did the parrot cross the road?", punchline="It said so."),
    ScriptedAnswer(pattern="joke", answer=JOKE),
)
_addresses: list[str] = []

for _test in vars(ChatModelIntegrationTests).values():
    if inspect.iscoroutinefunction(_test):
        # The OpenAI client keeps connections, which belong to one event loop, from test to test.
        pytest.mark.asyncio(loop_scope="session")(_test)


@pytest.fixture(scope="module", autouse=True)
def service() -> Iterator[None]:
    """The suites ask for the model's parameters without a fixture, so the address is kept here."""
    with scripted_service(ScriptedConfig(answers=ANSWERS, answer_words=12)) as address:
        _addresses.append(address)
        yield
        _addresses.pop()


class TestChatParrotUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ChatParrot]:
        return ChatParrot

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "scripted"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"PARROT_API_KEY": "secret"}, {"model": "scripted"}, {"openai_api_key": "secret"}


class TestChatParrotIntegration(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[ChatParrot]:
        return ChatParrot

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "scripted", "base_url": f"{_addresses[-1]}/v1", "max_tokens": 200}

    @property
    def model_override_value(self) -> str:
        return "scripted"

    @property
    def supports_json_mode(self) -> bool:
        return True
