"""`ParrotChatCompletion`: Semantic Kernel's chat completion on a Parrot service."""

from collections.abc import Mapping
from typing import Any, ClassVar

from openai import AsyncOpenAI
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion, OpenAIChatPromptExecutionSettings
from semantic_kernel.connectors.ai.prompt_execution_settings import PromptExecutionSettings
from semantic_kernel.exceptions import ServiceResponseException

from parrot.integrations.openai_client import NO_KEY, openai_client, service_error
from parrot.integrations.run import Service
from parrot.integrations.semantic_kernel.failures import framework_error


class ParrotChatPromptExecutionSettings(OpenAIChatPromptExecutionSettings):
    """Settings of a chat completion; what else the service takes goes into `extra_body`."""

    max_tokens: int | None = 512
    """Of an answer."""
    temperature: float | None = 0.0
    """0 takes the most likely token."""


class ParrotChatCompletion(OpenAIChatCompletion):
    """A chat completion that a Parrot service answers, over its OpenAI-compatible endpoint.

    Streaming, function calling with its automatic loop, structured output and agents are those of Semantic
    Kernel. An error is one of Semantic Kernel's service exceptions, and its cause the `ParrotError`.
    """

    MODEL_PROVIDER_NAME: ClassVar[str] = "parrot"

    def __init__(
        self,
        ai_model_id: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        service_id: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        async_client: AsyncOpenAI | None = None,
        instruction_role: str | None = None,
    ) -> None:
        super().__init__(
            ai_model_id=ai_model_id,
            service_id=service_id,
            async_client=async_client or openai_client(base_url, api_key, default_headers),
            instruction_role=instruction_role,
        )

    def get_prompt_execution_settings_class(self) -> type[PromptExecutionSettings]:
        """Settings with the defaults of this connector."""
        return ParrotChatPromptExecutionSettings

    def service(self) -> Service:
        """Where its graphs go."""
        url = str(self.client.base_url).rstrip("/").removesuffix("/v1")
        key = self.client.api_key
        return Service(url=url, api_key=None if key == NO_KEY else key)

    async def _send_request(self, settings: PromptExecutionSettings) -> Any:
        try:
            return await super()._send_request(settings)
        except ServiceResponseException as error:
            found = service_error(error.__cause__)
            if found is None:
                raise
            raise framework_error(found) from found
