"""Semantic Kernel's chat completion on a Parrot service: answers, streams, functions, errors."""

from typing import Any

import pytest

pytest.importorskip("semantic_kernel", reason="needs the extra semantic-kernel: nox -s semantic_kernel")

from openai import APIStatusError
from semantic_kernel import Kernel
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.prompt_execution_settings import PromptExecutionSettings
from semantic_kernel.contents import ChatHistory
from semantic_kernel.exceptions import (
    KernelInvokeException,
    ServiceInvalidRequestError,
    ServiceResourceNotFoundError,
    ServiceResponseException,
)
from semantic_kernel.functions import KernelArguments, kernel_function

from parrot.errors import CallError, NotFoundError, ParrotError, UnreachableError
from parrot.integrations.semantic_kernel import ParrotChatCompletion, ParrotChatPromptExecutionSettings


class Clock:
    """A plugin whose function is native."""

    @kernel_function(name="on", description="When the zoo opens")
    def on(self, day: str) -> str:
        return f"On {day}: open at nine"


def asked(text: str) -> ChatHistory:
    history = ChatHistory(system_message="You are brief.")
    history.add_user_message(text)
    return history


async def test_an_answer_comes_with_usage_and_reason(chat: Any) -> None:
    (answer,) = await chat().get_chat_message_contents(asked("tea"), ParrotChatPromptExecutionSettings())
    assert answer.content
    assert answer.metadata["usage"].prompt_tokens > 0
    assert answer.finish_reason.value == "stop"


async def test_a_stream_has_the_same_text(chat: Any) -> None:
    settings = ParrotChatPromptExecutionSettings(max_tokens=40)
    connector = chat()
    whole = await connector.get_chat_message_content(asked("tea"), settings)
    pieces = [
        piece.content
        async for piece in connector.get_streaming_chat_message_content(asked("tea"), settings)
        if piece is not None
    ]
    assert "".join(pieces) == whole.content
    assert len([piece for piece in pieces if piece]) > 1


async def test_settings_of_no_connector_are_taken(chat: Any) -> None:
    settings = PromptExecutionSettings(extension_data={"max_tokens": 3})
    (answer,) = await chat().get_chat_message_contents(asked("tea"), settings)
    assert answer.metadata["usage"].completion_tokens == 3


async def test_extra_body_reaches_the_service(chat: Any) -> None:
    settings = ParrotChatPromptExecutionSettings(max_tokens=20, extra_body={"ignore_eos": True})
    (answer,) = await chat().get_chat_message_contents(asked("tea"), settings)
    assert answer.metadata["usage"].completion_tokens == 20


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_model_calls_functions_until_it_answers(chat: Any, *, streaming: bool) -> None:
    kernel = Kernel(services=chat())
    kernel.add_plugin(Clock(), "clock")
    settings = ParrotChatPromptExecutionSettings(function_choice_behavior=FunctionChoiceBehavior.Auto())
    function = kernel.add_function("zoo", prompt="When does the zoo open?", function_name="ask")
    arguments = KernelArguments(settings=settings)
    if streaming:
        pieces = [piece async for piece in kernel.invoke_stream(function, arguments)]
        text = "".join(piece[0].content for piece in pieces if isinstance(piece, list))
    else:
        text = str(await kernel.invoke(function, arguments))
    assert text == "It opens at nine."


async def test_an_agent_calls_functions(chat: Any) -> None:
    agent = ChatCompletionAgent(service=chat(), plugins=[Clock()], name="guide", instructions="You guide.")
    agent.kernel.add_plugin(Clock(), "clock")
    response = await agent.get_response(messages="When does the zoo open?")
    assert str(response.content) == "It opens at nine."


async def cause(
    connector: ParrotChatCompletion, text: str = "tea", **settings: Any
) -> tuple[Exception, ParrotError]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its class is what is asked
        await connector.get_chat_message_contents(asked(text), ParrotChatPromptExecutionSettings(**settings))
    found = caught.value.__cause__
    assert isinstance(found, ParrotError)
    return caught.value, found


async def test_a_model_that_is_not_there(chat: Any) -> None:
    error, found = await cause(chat("nobody"))
    assert type(error) is ServiceResourceNotFoundError
    assert isinstance(found, NotFoundError)
    assert "there is scripted" in str(error)


async def test_a_window_that_is_too_short(chat: Any) -> None:
    error, found = await cause(chat(), "tea " * 40_000)
    assert type(error) is ServiceInvalidRequestError
    assert (found.code, found.number) == ("context_overflow", "P1203")


async def test_a_parameter_that_is_refused(chat: Any) -> None:
    error, found = await cause(chat(), extra_body={"top_k": -5})
    assert type(error) is ServiceInvalidRequestError
    assert found.param == "top_k"


async def test_a_service_that_is_not_there(chat: Any) -> None:
    error, found = await cause(chat(url="http://127.0.0.1:1"))
    assert type(error) is ServiceResponseException
    assert isinstance(found, UnreachableError)


async def test_a_function_says_why_it_failed(chat: Any) -> None:
    kernel = Kernel(services=chat("nobody"))
    function = kernel.add_function("zoo", prompt="When?", function_name="ask")
    with pytest.raises(KernelInvokeException) as caught:
        await kernel.invoke(function)
    causes = []
    error: BaseException | None = caught.value
    while error is not None:
        causes.append(error)
        error = error.__cause__
    assert any(isinstance(found, NotFoundError) for found in causes)
    assert not any(isinstance(found, CallError) for found in causes)
    assert any(isinstance(found, APIStatusError) for found in causes) == (len(causes) > 4)
