"""OpenAI's own SDK as a client, of whichever version is installed; `nox -s openai2 openai3` runs both."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from http_harness import KEY_A, Harness, running_service

openai = pytest.importorskip("openai", reason="the openai SDK is not installed")

pytestmark = pytest.mark.asyncio(loop_scope="module")

Client = Any
"""`openai.AsyncOpenAI`, whose types are there only where the SDK is."""

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Harness]:
    """A service for all tests here."""
    async with running_service() as harness:
        yield harness


@pytest_asyncio.fixture(loop_scope="module")
async def client(service: Harness) -> AsyncIterator[Client]:
    """The SDK's client, set up as its users do."""
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{service.port}/v1", api_key=KEY_A, max_retries=0
    ) as sdk:
        yield sdk


async def test_models_are_listed(client: Client) -> None:
    models = await client.models.list()
    assert [model.id for model in models.data] == ["scripted"]


async def test_a_model_is_looked_up(client: Client) -> None:
    assert (await client.models.retrieve("scripted")).id == "scripted"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("some/other")
    assert caught.value.code == "model_not_found"


async def test_a_chat_is_answered(client: Client) -> None:
    answer = await client.chat.completions.create(
        model="scripted",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi #text"}],
        temperature=0,
        max_completion_tokens=50,
        metadata={"team": "a"},
        user="u",
    )
    assert answer.choices[0].message.content == "no JSON at all"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


async def test_a_chat_is_streamed(client: Client) -> None:
    pieces, usage = [], None
    stream = await client.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": "Hi #text"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(pieces) == "no JSON at all"
    assert usage is not None
    assert usage.completion_tokens > 0


async def test_the_sdks_own_stream_helper_puts_a_chat_together(client: Client) -> None:
    async with client.chat.completions.stream(
        model="scripted", messages=[{"role": "user", "content": "Hi #text"}]
    ) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "no JSON at all"


async def test_likelihoods_are_understood(client: Client) -> None:
    answer = await client.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": "Hi #text"}],
        logprobs=True,
        top_logprobs=2,
    )
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert "".join(token.token for token in told.content) == "no JSON at all"
    assert all(len(token.top_logprobs) == 2 for token in told.content)


async def test_an_answer_follows_a_schema(client: Client) -> None:
    answer = await client.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": "Where?"}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
        },
    )
    assert json.loads(answer.choices[0].message.content or "").keys() == {"city"}


async def test_completions_are_given_whole_and_streamed(client: Client) -> None:
    extra = {"ignore_eos": True, "min_tokens": 2, "top_k": -1}
    whole = await client.completions.create(
        model="scripted", prompt="Go on", max_tokens=40, temperature=0, logprobs=2, extra_body=extra
    )
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 40
    stream = await client.completions.create(
        model="scripted", prompt="Go on", max_tokens=40, temperature=0, stream=True, extra_body=extra
    )
    text = "".join([choice.text async for chunk in stream for choice in chunk.choices])
    assert text == whole.choices[0].text


async def test_errors_are_the_sdks_own(client: Client, service: Harness) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.completions.create(model="gpt-9", prompt="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        await client.completions.create(model="scripted", prompt="word " * 5000)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        await client.completions.create(model="scripted", prompt="x", max_tokens=0)
    assert wrong.value.param == "max_tokens"
    stranger = openai.AsyncOpenAI(base_url=client.base_url, api_key="no", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        await stranger.models.list()
    await stranger.close()


async def test_a_stream_that_is_left_frees_its_request(client: Client, service: Harness) -> None:
    stream = await client.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": "Talk"}],
        stream=True,
        max_tokens=4000,
        extra_body={"ignore_eos": True},
    )
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(30):
        while service.service.counters()["sessions_open"]:
            await asyncio.sleep(0.02)
    assert service.service.counters()["calls_running"] == 0


async def test_tools_are_called(client: Client) -> None:
    answer = await client.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": "Where?"}],
        tools=[{"type": "function", "function": {"name": "find", "parameters": SCHEMA}}],
        tool_choice="required",
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "find"
    assert json.loads(call.function.arguments).keys() == {"city"}


async def test_responses_follow_each_other(client: Client) -> None:
    first = await client.responses.create(model="scripted", input="Hi #text")
    assert first.output_text == "no JSON at all"
    assert first.usage.input_tokens_details.cached_tokens <= first.usage.input_tokens
    second = await client.responses.create(model="scripted", input="#json", previous_response_id=first.id)
    assert json.loads(second.output_text)["n"] is None
    assert (await client.responses.retrieve(first.id)).output_text == first.output_text
    background = await client.responses.create(model="scripted", input="Hi #text", background=True)
    async with asyncio.timeout(30):
        while (found := await client.responses.retrieve(background.id)).status != "completed":
            await asyncio.sleep(0.02)
    assert found.output_text == "no JSON at all"
    await client.responses.delete(background.id)


async def test_a_response_is_streamed(client: Client) -> None:
    async with client.responses.stream(model="scripted", input="Hi #text") as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(deltas) == final.output_text == "no JSON at all"


async def test_applications_are_built_with_an_extra_field(client: Client, service: Harness) -> None:
    sid = await service.session()
    parrot = {"session_id": sid, "outputs": ["code"], "wait": False}
    await client.completions.create(
        model="scripted", prompt="Write #text", max_tokens=50, extra_body={"parrot": parrot}
    )
    answer = await client.completions.create(
        model="scripted", prompt="Say {{code}}", echo=True, extra_body={"parrot": {"session_id": sid}}
    )
    assert answer.choices[0].text
    assert (await service.variable(sid, "code"))["value"] == "no JSON at all"


async def test_calls_of_tools_are_streamed(client: Client) -> None:
    async with client.chat.completions.stream(
        model="scripted",
        messages=[{"role": "user", "content": "Where?"}],
        tools=[{"type": "function", "function": {"name": "find", "parameters": SCHEMA, "strict": True}}],
        tool_choice="required",
        parallel_tool_calls=False,
    ) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    (call,) = final.choices[0].message.tool_calls
    assert call.function.name == "find"
    assert json.loads(call.function.arguments).keys() == {"city"}
    async with client.responses.stream(
        model="scripted",
        input="Where?",
        tools=[{"type": "function", "name": "find", "parameters": SCHEMA, "strict": True}],
        tool_choice="required",
        parallel_tool_calls=False,
    ) as responses:
        found = [event.type async for event in responses]
        response = await responses.get_final_response()
    assert "response.function_call_arguments.delta" in found
    assert json.loads(response.output[0].arguments).keys() == {"city"}


async def test_several_choices_come_of_one_prompt(client: Client) -> None:
    answer = await client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "Say it"}], n=3, max_tokens=5
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


async def test_a_response_in_the_background_is_cancelled_and_one_is_streamed(client: Client) -> None:
    body = {"ignore_eos": True}
    begun = await client.responses.create(
        model="scripted", input="Talk", background=True, max_output_tokens=4000, extra_body=body
    )
    assert (await client.responses.cancel(begun.id)).status in {"cancelled", "incomplete"}
    await client.responses.delete(begun.id)
    stream = await client.responses.create(model="scripted", input="Hi #text", background=True, stream=True)
    events = [event async for event in stream]
    assert events[-1].response.output_text == "no JSON at all"
    await client.responses.delete(events[-1].response.id)


async def test_a_conversation_goes_on_by_its_name(client: Client) -> None:
    first = await client.responses.create(model="scripted", input="Hi #text", conversation="conv_sdk")
    second = await client.responses.create(model="scripted", input="#json", conversation="conv_sdk")
    assert second.conversation.id == "conv_sdk"
    assert second.usage.input_tokens > first.usage.input_tokens


async def test_a_registered_function_is_a_prompt(client: Client, service: Harness) -> None:
    spec = {"template": "{{who}} says #text{{out}}", "outputs": {"out": {}}}
    assert (await service.client.put("/v1/functions/greet", json=spec)).status_code == 201
    response = await client.responses.create(
        model="scripted", prompt={"id": "greet", "version": "1", "variables": {"who": "Ada"}}
    )
    assert response.output_text == "no JSON at all"
    assert response.prompt.id == "greet"


async def test_the_standards_own_knobs_are_taken(client: Client) -> None:
    part = {"type": "text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit"}}
    answer = await client.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": [part, {"type": "text", "text": " #text"}]}],
        prompt_cache_key="greetings",
        service_tier="priority",
        prediction={"type": "content", "content": "no JSON at all"},
        frequency_penalty=0.1,
        presence_penalty=0.1,
        logit_bias={"7": 1},
        safety_identifier="s",
        extra_headers={"X-Dynamo-Session-ID": "run-1"},
        extra_body={
            "priority": -1,
            "nvext": {"agent_hints": {"osl": 20, "priority": 3, "speculative_prefill": True}},
            "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
        },
    )
    assert answer.choices[0].message.content == "no JSON at all"


async def test_likelihoods_of_a_response_are_understood(client: Client) -> None:
    response = await client.responses.create(
        model="scripted", input="Hi #text", include=["message.output_text.logprobs"], top_logprobs=1
    )
    told = response.output[0].content[0].logprobs
    assert "".join(token.token for token in told) == "no JSON at all"


async def test_the_tokens_of_a_prompt_are_counted(client: Client) -> None:
    counted = await client.responses.input_tokens.count(model="scripted", input="Hi there")
    response = await client.responses.create(model="scripted", input="Hi there", max_output_tokens=2)
    assert counted.input_tokens == response.usage.input_tokens
