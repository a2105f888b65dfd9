"""`ParrotChatClient`: Agent Framework's chat client on a Parrot service."""

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any

from agent_framework import ChatResponse, ChatResponseUpdate, Message, ResponseStream, SecretString
from agent_framework.exceptions import (
    ChatClientException,
    ChatClientInvalidAuthException,
    ChatClientInvalidRequestException,
)
from agent_framework_openai import OpenAIChatCompletionClient
from openai import AsyncOpenAI

from parrot.errors import AuthenticationError, CallError, RequestError
from parrot.integrations.agent_framework.hints import RequestHints
from parrot.integrations.openai_client import openai_client, service_error

DEFAULTS: Mapping[str, object] = {"max_tokens": 512, "temperature": 0.0}
"""Options that are not given: the most likely tokens, and an end."""


class ParrotChatClient(OpenAIChatCompletionClient):  # type: ignore[type-arg]
    """A chat client that a Parrot service answers, over its OpenAI-compatible endpoint.

    Streaming, tools, structured output, middleware and telemetry are Agent Framework's. An error is a
    `ChatClientException`, and its cause the `ParrotError`. Requests with `client_kwargs={"parrot": …}`, as
    `hints` makes them, say what they are a part of.
    """

    OTEL_PROVIDER_NAME = "parrot"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | SecretString | None = None,
        default_headers: Mapping[str, str] | None = None,
        async_client: AsyncOpenAI | None = None,
        **options: Any,
    ) -> None:
        key = api_key.get_secret_value() if isinstance(api_key, SecretString) else api_key
        client = async_client or openai_client(base_url, key, default_headers)
        super().__init__(model=model, async_client=client, **options)

    def _inner_get_response(
        self,
        *,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        stream: bool = False,
        parrot: RequestHints | None = None,
        **kwargs: Any,
    ) -> Awaitable[ChatResponse] | ResponseStream[ChatResponseUpdate, ChatResponse]:
        given = {**DEFAULTS, **{name: value for name, value in options.items() if value is not None}}
        if parrot is not None:
            body = parrot.body()
            given["metadata"] = {**body.pop("metadata"), **(given.get("metadata") or {})}  # type: ignore[dict-item]
            given["extra_body"] = {**body, **(given.get("extra_body") or {})}
            kwargs["extra_headers"] = {**parrot.headers(), **(kwargs.get("extra_headers") or {})}
        made = super()._inner_get_response(messages=messages, options=given, stream=stream, **kwargs)
        if isinstance(made, ResponseStream):
            return self._build_response_stream(_updates(made), response_format=options.get("response_format"))
        return _response(made)


async def _response(made: Awaitable[ChatResponse]) -> ChatResponse:
    try:
        return await made
    except ChatClientException as error:
        failure = _failure(error)
        raise failure from failure.__cause__


async def _updates(
    made: ResponseStream[ChatResponseUpdate, ChatResponse],
) -> AsyncIterator[ChatResponseUpdate]:
    try:
        async for update in made:
            yield update
    except ChatClientException as error:
        failure = _failure(error)
        raise failure from failure.__cause__


def _failure(error: ChatClientException) -> ChatClientException:
    """The same with the service's error as its cause, and of the kind that this is."""
    found = service_error(error.__cause__)
    match found:
        case None:
            return error
        case AuthenticationError():
            made: ChatClientException = ChatClientInvalidAuthException(str(found))
        case RequestError() | CallError(code="context_overflow"):
            made = ChatClientInvalidRequestException(str(found))
        case _:
            made = ChatClientException(str(found))
    made.__cause__ = found
    return made
