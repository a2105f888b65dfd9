"""Tools of chat completions: what the model is told, what it can answer, and how a conversation goes on."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from http_harness import Harness, running_service
from openai_streams import CHAT, ask, stream, user

from parrot.engine.scripted_config import ScriptedAnswer, ScriptedConfig

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
TWO = '[{"name": "now", "arguments": {}}, {"name": "add", "arguments": {"a": 3, "b": 4}}]'
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers",
        "parameters": {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/N"}, "b": {"$ref": "#/$defs/N"}},
            "required": ["a", "b"],
            "$defs": {"N": {"type": "integer"}},
        },
        "strict": True,
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = [ADD, NOW]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Harness]:
    """A service whose engine knows when to call."""
    answers = (
        ScriptedAnswer(pattern="Result of add:\n3", answer="It is three."),
        ScriptedAnswer(pattern="add one and two", answer=ONE),
        ScriptedAnswer(pattern="what time, and add", answer=TWO),
        ScriptedAnswer(pattern="say hello", answer="Hello, no tool is needed."),
    )
    async with running_service(engine=ScriptedConfig(answers=answers, context_tokens=4096)) as harness:
        yield harness


async def test_an_answer_may_call_a_tool(service: Harness) -> None:
    answer = await ask(service, CHAT, messages=user("Please add one and two"), tools=TOOLS)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert call["function"]["name"] == "add"
    assert json.loads(call["function"]["arguments"]) == {"a": 1, "b": 2}


async def test_several_calls_come_together_and_each_has_an_id(service: Harness) -> None:
    answer = await ask(service, CHAT, messages=user("Tell what time, and add"), tools=TOOLS)
    calls = answer["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["now", "add"]
    assert len({call["id"] for call in calls}) == 2


async def test_an_answer_may_be_words_instead(service: Harness) -> None:
    body: dict[str, Any] = {"messages": user("Just say hello"), "tools": TOOLS}
    answer = await ask(service, CHAT, **body)
    assert answer["choices"][0]["message"]["content"] == "Hello, no tool is needed."
    assert "tool_calls" not in answer["choices"][0]["message"]
    chunks = await stream(service, CHAT, **body)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == "Hello, no tool is needed."
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_calls_are_streamed_name_first_and_arguments_as_they_come(service: Harness) -> None:
    body: dict[str, Any] = {"messages": user("Tell what time, and add"), "tools": TOOLS}
    whole = await ask(service, CHAT, **body)
    chunks = await stream(service, CHAT, **body)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert not any(delta.get("content") for delta in deltas)
    pieces = [call for delta in deltas for call in delta.get("tool_calls", ())]
    named = [piece for piece in pieces if "name" in piece["function"]]
    assert [(piece["index"], piece["function"]["name"]) for piece in named] == [(0, "now"), (1, "add")]
    assert len({piece["id"] for piece in named}) == 2
    arguments = {0: "", 1: ""}
    for piece in pieces:
        arguments[piece["index"]] += piece["function"]["arguments"]
    told = [call["function"]["arguments"] for call in whole["choices"][0]["message"]["tool_calls"]]
    assert list(arguments.values()) == told
    assert len(pieces) > len(named)
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_call_that_is_cut_off_is_told_as_far_as_it_came(service: Harness) -> None:
    body: dict[str, Any] = {"messages": user("Please add one and two"), "tools": TOOLS, "max_tokens": 22}
    whole = (await ask(service, CHAT, **body))["choices"][0]
    (call,) = whole["message"]["tool_calls"]
    assert (call["function"]["name"], whole["finish_reason"]) == ("add", "length")
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(call["function"]["arguments"])
    chunks = await stream(service, CHAT, **body)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("choice", "name"),
    [("required", "add"), ({"type": "function", "function": {"name": "now"}}, "now")],
)
async def test_a_call_can_be_demanded(service: Harness, choice: object, name: str) -> None:
    answer = await ask(service, CHAT, messages=user("Whatever"), tools=TOOLS, tool_choice=choice)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == name
    arguments = json.loads(call["function"]["arguments"])
    assert arguments.keys() == ({"a", "b"} if name == "add" else set())


async def test_tools_that_may_not_be_called_are_not_told_of(service: Harness) -> None:
    messages = user("Please add one and two")
    plain = await ask(service, CHAT, messages=messages)
    none = await ask(service, CHAT, messages=messages, tools=TOOLS, tool_choice="none")
    assert none["choices"][0]["message"] == plain["choices"][0]["message"]
    assert none["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


async def test_a_conversation_goes_on_with_what_a_tool_gave(service: Harness) -> None:
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "You can count."},
        {"role": "user", "content": "Please add one and two"},
    ]
    first = await ask(service, CHAT, messages=messages, tools=TOOLS)
    message = first["choices"][0]["message"]
    (call,) = message["tool_calls"]
    messages += [message, {"role": "tool", "tool_call_id": call["id"], "content": "3"}]
    second = await ask(service, CHAT, messages=messages, tools=TOOLS)
    assert second["choices"][0]["message"]["content"] == "It is three."
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 100


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_tools_that_cannot_be_served_are_refused(
    service: Harness, fields: dict[str, object], param: str
) -> None:
    answer = await service.client.post(CHAT, json={"messages": user("x"), **fields})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"].startswith(param)
