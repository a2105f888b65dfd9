"""Prompt functions, compiled: which calls a template makes, before any of them is made.

A template in Semantic Kernel's syntax is a list of blocks. A block that calls another prompt function on the
same service is an edge of the application graph. A block that calls anything else is a barrier: it runs in
the program, and its text goes into the prompt.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from semantic_kernel import Kernel
from semantic_kernel.exceptions import (
    KernelFunctionNotFoundError,
    KernelPluginNotFoundError,
    KernelServiceNotFoundError,
)
from semantic_kernel.functions import KernelArguments, KernelFunction, KernelFunctionFromPrompt
from semantic_kernel.prompt_template import KernelPromptTemplate
from semantic_kernel.template_engine.blocks.block import Block
from semantic_kernel.template_engine.blocks.code_block import CodeBlock
from semantic_kernel.template_engine.blocks.function_id_block import FunctionIdBlock
from semantic_kernel.template_engine.blocks.text_block import TextBlock

from parrot.errors import UsageError
from parrot.integrations.run import Service
from parrot.integrations.sampling import sampling_of
from parrot.integrations.semantic_kernel.connector import (
    ParrotChatCompletion,
    ParrotChatPromptExecutionSettings,
)

_NOT_TEXT = re.compile(
    r"<\s*(image|audio|binary|annotation|file_reference|function_call|function_result|reasoning|chat_history)\b"
    r"""|role\s*=\s*["'](?!(?:system|developer|user|assistant)["'])"""
)
"""What a template may write that a call of a graph has no place for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What answers a prompt function."""

    service: Service
    model: str
    sampling: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Barrier:
    """A call in a template that runs in the program, before the prompt is there."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPrompt:
    """A prompt function, and what its template takes from other calls."""

    function: KernelFunctionFromPrompt
    target: Target
    nested: Mapping[int, "CompiledPrompt"]
    """By position among the template's blocks: the calls that become edges."""
    barriers: Mapping[int, Barrier]
    """By position: the calls that do not."""

    @property
    def blocks(self) -> list[Block]:
        """The template's."""
        return blocks_of(self.function)

    def calls(self) -> list[str]:
        """The names of all calls of the graph, each after those whose answers it takes."""
        return [name for inner in self.nested.values() for name in inner.calls()] + [self.name]

    def edges(self) -> list[tuple[int, int]]:
        """Which call takes which call's answer, by their positions in `calls`: from, to."""
        found: list[tuple[int, int]] = []
        ends: list[int] = []
        first = 0
        for inner in self.nested.values():
            found += [(first + source, first + target) for source, target in inner.edges()]
            first += len(inner.calls())
            ends.append(first - 1)
        return found + [(end, first) for end in ends]

    @property
    def name(self) -> str:
        """The function's, with its plugin."""
        name: str = self.function.fully_qualified_name
        return name


def compile_prompt(
    kernel: Kernel, function: KernelFunction, arguments: KernelArguments | None = None
) -> CompiledPrompt:
    """Read the templates of a function and of all that they call. Nothing runs.

    Args:
        kernel: Where functions and services are looked up.
        function: The function.
        arguments: Execution settings may come with them.

    Raises:
        UsageError: why the function cannot be a call of a graph.
    """
    made = _compiled(kernel, function, arguments, ())
    if isinstance(made, str):
        raise UsageError(f"{function.fully_qualified_name}: {made}")
    return made


def blocks_of(function: KernelFunctionFromPrompt) -> list[Block]:
    """The blocks of a template in Semantic Kernel's syntax."""
    blocks: list[Block] = function.prompt_template.extract_blocks()
    return blocks


def _compiled(
    kernel: Kernel, function: KernelFunction, arguments: KernelArguments | None, outer: tuple[str, ...]
) -> CompiledPrompt | str:
    """The function, or why it cannot be compiled."""
    if function.fully_qualified_name in outer:
        return "it calls itself"
    if obstacle := _template_obstacle(function):
        return obstacle
    assert isinstance(function, KernelFunctionFromPrompt)
    target = _target(kernel, function, arguments)
    if isinstance(target, str):
        return target
    nested: dict[int, CompiledPrompt] = {}
    barriers: dict[int, Barrier] = {}
    unsafe = function.prompt_template.prompt_template_config.allow_dangerously_set_content
    for position, name, has_arguments in _called(function):
        inner = _looked_up(kernel, name)
        if not isinstance(inner, str) and has_arguments and not inner.parameters:
            inner = "it takes no arguments, and is given some"
        found = (
            inner
            if isinstance(inner, str)
            else _compiled(kernel, inner, arguments, (*outer, function.fully_qualified_name))
        )
        if not isinstance(found, str) and unsafe:
            found = "the template lets answers write messages"
        if not isinstance(found, str) and found.target.service != target.service:
            found = "another service answers it"
        if isinstance(found, str):
            barriers[position] = Barrier(name="-".join(part for part in name if part), reason=found)
        else:
            nested[position] = found
    return CompiledPrompt(function=function, target=target, nested=nested, barriers=barriers)


def _called(function: KernelFunctionFromPrompt) -> Iterator[tuple[int, tuple[str | None, str], bool]]:
    """The positions of calls in a template, plugin and name of what is called, and whether arguments are
    written there.
    """
    for position, block in enumerate(blocks_of(function)):
        if isinstance(block, CodeBlock) and isinstance(block.tokens[0], FunctionIdBlock):
            called = block.tokens[0]
            yield position, (called.plugin_name, called.function_name), len(block.tokens) > 1


def _looked_up(kernel: Kernel, name: tuple[str | None, str]) -> KernelFunction | str:
    try:
        return kernel.get_function(*name)
    except (KernelFunctionNotFoundError, KernelPluginNotFoundError):
        return "the kernel does not know it"


def _template_obstacle(function: KernelFunction) -> str | None:
    if type(function) is not KernelFunctionFromPrompt:
        return "it is no prompt"
    template = function.prompt_template
    if type(template) is not KernelPromptTemplate:
        return f"its template is written in {template.prompt_template_config.template_format}"
    if template.allow_dangerously_set_content or any(
        variable.allow_dangerously_set_content for variable in template.prompt_template_config.input_variables
    ):
        return "its template lets arguments write messages"
    text = "".join(block.content for block in blocks_of(function) if isinstance(block, TextBlock))
    if found := _NOT_TEXT.search(text):
        return f"its template has {found.group()!r}, which is more than text"
    return None


def _target(
    kernel: Kernel, function: KernelFunctionFromPrompt, arguments: KernelArguments | None
) -> Target | str:
    given = dict((arguments.execution_settings if arguments is not None else None) or {})
    try:
        service, settings = kernel.select_ai_service(function, KernelArguments(settings=given))
    except KernelServiceNotFoundError:
        return "no service answers it"
    if not isinstance(service, ParrotChatCompletion):
        return f"{type(service).__name__} answers it"
    if not isinstance(settings, ParrotChatPromptExecutionSettings):
        settings = service.get_prompt_execution_settings_from_settings(settings)
    if settings.function_choice_behavior is not None:
        return "the model may call functions"
    payload: dict[str, Any] = settings.prepare_settings_dict()
    sampling = sampling_of(payload)
    if sampling is None:
        return "its settings ask for more than a call of a graph gives"
    return Target(
        service=service.service(), model=payload.get("model") or service.ai_model_id, sampling=sampling
    )
