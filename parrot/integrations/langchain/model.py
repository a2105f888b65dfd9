"""`ChatParrot`: a LangChain chat model on a Parrot service."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils import secret_from_env
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from parrot.integrations.langchain.run import ACTIVE, LazyRun
from parrot.integrations.naming import call_name
from parrot.integrations.run import Service
from parrot.integrations.sampling import sampling_of

DEFAULT_URL = "http://127.0.0.1:8321/v1"
NO_KEY = "none"
"""Sent when no key is configured: the OpenAI client wants one."""


class ChatParrot(BaseChatOpenAI):
    """A chat model that a Parrot service serves, over its OpenAI-compatible endpoint.

    Within a chain made by `lazy`, calls are submitted to the chain's application graph instead, when they ask
    for nothing but text: no tools, no structured output, one answer.
    """

    model_config = ConfigDict(populate_by_name=True)

    openai_api_base: str | None = Field(default=DEFAULT_URL, alias="base_url")
    """The service's address, with `/v1`."""
    openai_api_key: SecretStr | None = Field(
        alias="api_key", default_factory=secret_from_env("PARROT_API_KEY", default=NO_KEY)
    )
    """The service's key; `PARROT_API_KEY` when it is not given."""
    max_tokens: int | None = Field(default=512)
    """Of an answer."""
    temperature: float | None = 0.0
    """0 takes the most likely token."""
    use_responses_api: bool | None = False
    stream_usage: bool | None = True

    @property
    def _llm_type(self) -> str:
        return "chat-parrot"

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Literal["function_calling", "json_mode", "json_schema"] = "json_schema",
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """As other chat models have it; without `method`, what the model writes is bound to the schema."""
        made: Runnable[LanguageModelInput, dict[str, Any] | BaseModel]
        made = super().with_structured_output(schema, method=method, **kwargs)
        return made

    def service(self) -> Service:
        """Where its lazy calls go."""
        url = (self.openai_api_base or DEFAULT_URL).rstrip("/").removesuffix("/v1")
        key = self.openai_api_key.get_secret_value() if isinstance(self.openai_api_key, SecretStr) else None
        return Service(url=url, api_key=None if key == NO_KEY else key)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        run = ACTIVE.get()
        if run is None:
            result: ChatResult = super()._generate(messages, stop, run_manager, **kwargs)
            return result
        mark = self._submit(run, messages, stop, run_manager, kwargs)
        if mark is None:
            return self._generate_now(run.resolve(messages), stop, run_manager, **kwargs)
        return _result(mark)

    def _generate_now(self, *args: Any, **kwargs: Any) -> ChatResult:
        result: ChatResult = super()._generate(*args, **kwargs)
        return result

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        run = ACTIVE.get()
        if run is not None:
            mark = self._submit(run, messages, stop, run_manager, kwargs)
            if mark is not None:
                return _result(mark)
            messages = await run.aresolve(messages)
        result: ChatResult = await super()._agenerate(messages, stop, run_manager, **kwargs)
        return result

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        run = ACTIVE.get()
        if run is not None:
            mark = self._submit(run, messages, stop, run_manager, kwargs)
            if mark is not None:
                yield ChatGenerationChunk(message=AIMessageChunk(content=mark))
                return
            messages = run.resolve(messages)
        yield from super()._stream(messages, stop, run_manager, **kwargs)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        run = ACTIVE.get()
        if run is not None:
            mark = self._submit(run, messages, stop, run_manager, kwargs)
            if mark is not None:
                yield ChatGenerationChunk(message=AIMessageChunk(content=mark))
                return
            messages = await run.aresolve(messages)
        async for chunk in super()._astream(messages, stop, run_manager, **kwargs):
            yield chunk

    def _submit(
        self,
        run: LazyRun,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
        kwargs: Mapping[str, Any],
    ) -> str | None:
        """Submit the call; None when it asks for more than a call of a graph can give."""
        roles = _roles(messages)
        sampling = sampling_of(self._get_request_payload(list(messages), stop=stop, **kwargs))
        if roles is None or sampling is None:
            return None
        name = _call_name(run_manager.metadata if run_manager is not None else {})
        return run.submit(self.service(), name, self.model_name, roles, sampling)


def _result(mark: str) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=AIMessage(content=mark))])


def _roles(messages: Sequence[BaseMessage]) -> list[tuple[str, str]] | None:
    """The messages as a call has them; None when they are more than texts of the three roles."""
    known = {"system": "system", "human": "user", "ai": "assistant"}
    found: list[tuple[str, str]] = []
    for message in messages:
        role = known.get(message.type)
        tools = getattr(message, "tool_calls", None) or message.additional_kwargs
        if role is None or tools or not isinstance(message.content, str):
            return None
        found.append((role, message.content))
    return found


def _call_name(metadata: Mapping[str, Any]) -> str:
    """What the call is called in the graph: the LangGraph node and step that make it, if any does."""
    node = metadata.get("langgraph_node")
    if not isinstance(node, str):
        return "chat"
    return call_name(f"{node}_{metadata.get('langgraph_step', '')}")
