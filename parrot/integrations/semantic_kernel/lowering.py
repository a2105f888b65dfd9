"""From a compiled prompt and its arguments to the calls of one request."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape, unescape

from semantic_kernel import Kernel
from semantic_kernel.contents import ChatHistory, ChatMessageContent, TextContent
from semantic_kernel.functions import KernelArguments
from semantic_kernel.template_engine.blocks.block import Block
from semantic_kernel.template_engine.blocks.code_block import CodeBlock
from semantic_kernel.template_engine.blocks.named_arg_block import NamedArgBlock
from semantic_kernel.template_engine.blocks.text_block import TextBlock
from semantic_kernel.template_engine.blocks.var_block import VarBlock

from parrot.errors import UsageError
from parrot.integrations.marks import Marks
from parrot.integrations.naming import call_name
from parrot.integrations.run import Answer, ChatCall, Given, Piece, prompt_of
from parrot.integrations.semantic_kernel.prompts import CompiledPrompt

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(slots=True)
class Lowering:
    """Renders prompts with marks in place of answers, and collects the calls."""

    kernel: Kernel
    calls: list[tuple[ChatCall, Answer]] = field(default_factory=list)
    """Each after those whose answers it takes."""
    marks: Marks[Given | Answer] = field(default_factory=Marks)

    async def lower(self, prompt: CompiledPrompt, arguments: KernelArguments) -> Answer:
        """Add the calls of a prompt function; gives the answer of its own.

        Raises:
            UsageError: a prompt consists of more answers than one call takes.
        """
        prompt.function.update_arguments_with_defaults(arguments)
        rendered, marked = await self._render(prompt, arguments)
        made = prompt_of(self._messages(rendered, marked))
        if made is None:
            raise UsageError(f"{prompt.name} takes too many answers for one call")
        answer: Answer = Answer()
        target = prompt.target
        call = ChatCall(
            name=call_name(prompt.name), model=target.model, prompt=made, sampling=target.sampling
        )
        self.calls.append((call, answer))
        return answer

    async def _render(self, prompt: CompiledPrompt, arguments: KernelArguments) -> tuple[str, str]:
        """The prompt as Semantic Kernel renders it, with marks for answers; and with marks for every text
        that the template does not have itself.
        """
        template = prompt.function.prompt_template
        rendered: list[str] = []
        marked: list[str] = []
        for position, block in enumerate(prompt.blocks):
            if position in prompt.nested:
                inner = prompt.nested[position]
                answer = await self.lower(inner, await self._arguments_of(block, prompt, arguments, inner))
                text = mark = self.marks.add(answer)
            else:
                text = mark = await template.render_blocks([block], self.kernel, arguments)
                if text.strip() and not isinstance(block, TextBlock):
                    mark = self.marks.add(Given(unescape(text)))
            rendered.append(text)
            marked.append(mark)
        return "".join(rendered), "".join(marked)

    async def _arguments_of(
        self, block: Block, prompt: CompiledPrompt, arguments: KernelArguments, inner: CompiledPrompt
    ) -> KernelArguments:
        """The arguments of a call in a template: those of the template, which may not write messages, and
        what the call says. As Semantic Kernel makes them when it renders such a call.
        """
        # Rendering nothing raises for arguments that could not be made safe.
        await prompt.function.prompt_template.render_blocks([], self.kernel, arguments)
        safe = {name: escape(value) if isinstance(value, str) else value for name, value in arguments.items()}
        given = KernelArguments(settings=arguments.execution_settings, **safe)
        for token in block.tokens[1:] if isinstance(block, CodeBlock) else ():
            named = isinstance(token, NamedArgBlock)
            name = token.name if named else inner.function.parameters[0].name
            variable = token.variable if named else token
            is_variable = isinstance(variable, VarBlock)
            given[name] = variable.get_value(given) if is_variable else token.render(self.kernel, given)
        return given

    def _messages(self, rendered: str, marked: str) -> list[tuple[str, Sequence[Piece]]]:
        """The messages in pieces. The program's texts are pieces of their own, where that changes nothing:
        what Semantic Kernel makes of the whole prompt is decisive.
        """
        right: list[tuple[str, Sequence[Piece]]] = [
            (role, self.marks.split(text)) for role, text in _texts(rendered)
        ]
        finer: list[tuple[str, Sequence[Piece]]] = [
            (role, self.marks.split(text)) for role, text in _texts(marked)
        ]
        return finer if _filled(finer) == _filled(right) else right


def _texts(prompt: str) -> list[tuple[str, str]]:
    """Roles and texts of a rendered prompt."""
    return [_text_of(message) for message in ChatHistory.from_rendered_prompt(prompt).messages]


def _text_of(message: ChatMessageContent) -> tuple[str, str]:
    role = _ROLES.get(message.role.value)
    if role is None or not all(type(item) is TextContent for item in message.items):
        raise UsageError("a call of a graph takes texts of system, user and assistant only")
    return role, "".join(item.text for item in message.items if isinstance(item, TextContent))


def _filled(messages: Sequence[tuple[str, Sequence[Piece]]]) -> list[tuple[str, list[str | Answer]]]:
    """The same with the program's texts written in, to compare."""
    made: list[tuple[str, list[str | Answer]]] = []
    for role, content in messages:
        whole: list[str | Answer] = []
        for piece in content:
            text = piece.text if isinstance(piece, Given) else piece
            if isinstance(text, str) and whole and isinstance(whole[-1], str):
                whole[-1] += text
            else:
                whole.append(text)
        made.append((role, whole))
    return made
