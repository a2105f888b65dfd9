"""What the acceptance tests of the Open Responses specification ask, held against its schemas.

Those tests are a program for bun that is in no package registry. These here send requests of the same kinds,
and check answers and events with the models that `openresponses-types` has of the specification's schemas;
`nox -s open_responses` installs it.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from http_harness import Harness, running_service

from parrot.engine.scripted_config import ScriptedAnswer, ScriptedConfig

types = pytest.importorskip("openresponses_types.types", reason="openresponses-types is not installed")

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALL = '{"name": "get_weather", "arguments": {"location": "Rome"}}'
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather somewhere.",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
    },
}
TALK: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": "I am called Ada."},
    {"type": "message", "role": "assistant", "content": "Hello Ada."},
    {"type": "message", "role": "user", "content": "What am I called?"},
]
RULED: list[dict[str, Any]] = [
    {"type": "message", "role": "system", "content": "Speak as sailors do."},
    {"type": "message", "role": "user", "content": "Greet me."},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Harness]:
    """A service whose engine calls a tool when it is asked for the weather."""
    answers = (ScriptedAnswer(pattern="the weather in Rome", answer=CALL),)
    async with running_service(engine=ScriptedConfig(answers=answers, tokens_per_step=2)) as harness:
        yield harness


def message(text: str) -> list[dict[str, Any]]:
    return [{"type": "message", "role": "user", "content": text}]


async def respond(service: Harness, **body: object) -> dict[str, Any]:
    """A response that follows the schema."""
    answer = await service.client.post("/v1/responses", json={"model": "scripted", **body})
    assert answer.status_code == 200, answer.text
    types.ResponseResource.model_validate(answer.json())
    found: dict[str, Any] = answer.json()
    return found


async def follow(service: Harness, **body: object) -> list[dict[str, Any]]:
    """The events of a response, each of which follows its schema."""
    body = {"model": "scripted", "stream": True, **body}
    async with service.client.stream("POST", "/v1/responses", json=body) as answer:
        lines = [line async for line in answer.aiter_lines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    for event in events:
        words = event["type"].removeprefix("response.").replace(".", "_").split("_")
        name = "".join(word.capitalize() for word in words)
        getattr(types, f"Response{name}StreamingEvent").model_validate(event)
    types.ResponseResource.model_validate(events[-1]["response"])
    return events


@pytest.mark.parametrize("given", [message("Greet me in three words."), RULED, TALK, "Hello"], ids=str)
async def test_a_response_is_complete_and_follows_the_schema(service: Harness, given: object) -> None:
    response = await respond(service, input=given)
    assert response["status"] == "completed"
    assert [item["type"] for item in response["output"]] == ["message"]


async def test_every_event_of_a_stream_follows_its_schema(service: Harness) -> None:
    events = await follow(service, input=message("Count to five."))
    assert events[-1]["type"] == "response.completed"
    assert len(events) > 8


async def test_a_tool_is_called(service: Harness) -> None:
    response = await respond(service, input=message("Tell me the weather in Rome"), tools=[TOOL])
    assert [item["type"] for item in response["output"]] == ["function_call"]


async def test_a_tools_call_is_streamed(service: Harness) -> None:
    events = await follow(service, input=message("Tell me the weather in Rome"), tools=[TOOL])
    kinds = [event["type"] for event in events]
    assert kinds.count("response.function_call_arguments.delta") > 1
    assert "response.function_call_arguments.done" in kinds
    items = [event["item"]["type"] for event in events if "output_item" in event["type"]]
    assert items == ["function_call", "function_call"]


async def test_what_a_body_asks_for_is_told_again(service: Harness) -> None:
    said = {"frequency_penalty": 0.5, "presence_penalty": -0.5, "top_logprobs": 1, "max_tool_calls": 3}
    more = {"safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"a": "b"}, "store": False}
    response = await respond(service, input="Hello", **said, **more)
    assert {key: response[key] for key in said | more} == said | more


async def test_an_image_is_refused_by_a_model_of_text(service: Harness) -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    body = {"model": "scripted", "input": [{"type": "message", "role": "user", "content": [image]}]}
    answer = await service.client.post("/v1/responses", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["type"] == "invalid_request_error"
