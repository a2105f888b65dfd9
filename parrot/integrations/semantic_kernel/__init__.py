"""Semantic Kernel on Parrot: a chat completion service, and prompt functions that become one graph.

    kernel = Kernel(services=ParrotChatCompletion("my-model", base_url="http://127.0.0.1:8321/v1"))
    lazy(kernel)

`ParrotChatCompletion` alone makes each call a request to the service's OpenAI-compatible endpoint; streaming,
function calling and agents work as with any other connector. After `lazy(kernel)`, a prompt function whose
template calls other prompt functions reaches the service as one application graph, in one request. Needs the
extra `semantic-kernel`.
"""

from parrot.errors import ConfigError

try:
    import openai as _openai  # noqa: F401
    import semantic_kernel as _semantic_kernel  # noqa: F401
except ImportError as error:
    raise ConfigError(
        f"{error.name} is not installed: pip install 'parrot-llm[semantic-kernel]'", code="missing_extra"
    ) from error

from parrot.integrations.semantic_kernel.connector import ParrotChatCompletion as ParrotChatCompletion
from parrot.integrations.semantic_kernel.connector import (
    ParrotChatPromptExecutionSettings as ParrotChatPromptExecutionSettings,
)
from parrot.integrations.semantic_kernel.graphs import KernelGraphs as KernelGraphs
from parrot.integrations.semantic_kernel.graphs import lazy as lazy
from parrot.integrations.semantic_kernel.prompts import CompiledPrompt as CompiledPrompt
from parrot.integrations.semantic_kernel.prompts import compile_prompt as compile_prompt

__all__ = [
    "CompiledPrompt",
    "KernelGraphs",
    "ParrotChatCompletion",
    "ParrotChatPromptExecutionSettings",
    "compile_prompt",
    "lazy",
]
