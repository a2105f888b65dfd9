"""Tool calls: what the model is told of tools, what bounds its answer, and what the answer says.

The same for every model: tools are described in the system message, and a call is JSON that the answer's
bound makes well formed:

    {"name": "f", "arguments": {…}}          or a list of these, where several may be made at once

With `tool_choice` `auto` an answer may be any other text instead; it cannot begin with a brace or a bracket
then, so the first character tells the two apart.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

from pydantic import Field, StrictBool

from parrot.errors import InvalidError
from parrot.server.openai.tool_stream import CallReader
from parrot.wire.requests import Text, Wire

MAX_TOOLS = 128
MAX_PARALLEL_CALLS = 8
NO_ARGUMENTS = "{}"
"""Of a call that was written without any."""
FUNCTION_NAME = r"^[a-zA-Z0-9_.:-]{1,64}$"

Schema = dict[str, object]
FunctionName = Annotated[Text, Field(pattern=FUNCTION_NAME)]


class ToolFunction(Wire):
    """A function that the model may call."""

    name: FunctionName
    description: Text | None = None
    parameters: Schema | None = None
    strict: StrictBool | None = None
    """Taken and passed over: arguments always follow the schema."""


class Tool(Wire):
    """One entry of `tools`."""

    type: Literal["function"]
    function: ToolFunction


class FunctionChoice(Wire):
    """The function of a named choice."""

    name: FunctionName


class NamedTool(Wire):
    """A choice of one function."""

    type: Literal["function"]
    function: FunctionChoice


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class CalledFunction(Wire):
    """What an earlier answer called."""

    name: Text
    arguments: Text


class ToolCall(Wire):
    """A call of an earlier answer."""

    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """The tools of one request, as far as its answer may use them."""

    functions: tuple[ToolFunction, ...]
    required: bool
    """The answer must be a call."""
    parallel: bool
    """It may be several calls."""

    @classmethod
    def of(
        cls,
        functions: Sequence[ToolFunction],
        choice: str | None,
        named: str | None,
        *,
        parallel: bool | None,
    ) -> "Toolbox | None":
        """What `tools`, `tool_choice` (a word, or the name of a function) and `parallel_tool_calls` say; None
        when no tool may be called.

        Raises:
            InvalidError: a choice of what is not there.
        """
        if not functions and (named or choice == "required"):
            raise InvalidError("tool_choice needs tools", param="tool_choice")
        if not functions or choice == "none":
            return None
        chosen = [function for function in functions if named in (None, function.name)]
        if not chosen:
            raise InvalidError("tool_choice names a function that is not among tools", param="tool_choice")
        return cls(
            functions=tuple(chosen),
            required=choice == "required" or named is not None,
            parallel=parallel is not False and named is None,
        )

    def description(self) -> str:
        """What the model is told."""
        form = '{"name": …, "arguments": {…}}'
        several = f", and to call several, with only a list of these: [{form}, …]" if self.parallel else ""
        otherwise = "" if self.required else " Otherwise answer in words."
        lines = [
            f"You can call functions. To call one, answer with only {form}{several}.{otherwise}",
            "These are the functions, with the JSON schemas of their arguments:",
        ]
        for function in self.functions:
            fields = {"name": function.name, "description": function.description}
            told = {key: value for key, value in fields.items() if value is not None}
            lines.append(json.dumps({**told, "parameters": function.parameters or {}}, ensure_ascii=False))
        return "\n".join(lines)

    def schema(self) -> Schema:
        """What bounds a call."""
        definitions: Schema = {}
        calls: list[object] = []
        for number, function in enumerate(self.functions):
            calls.append(
                {
                    "type": "object",
                    "properties": {
                        "name": {"const": function.name},
                        "arguments": _arguments(function, f"t{number}_", definitions),
                    },
                    "required": ["name", "arguments"],
                    "additionalProperties": False,
                }
            )
        one = calls[0] if len(calls) == 1 else {"anyOf": calls}
        definitions["call"] = one
        reference = {"$ref": "#/$defs/call"}
        several = {"type": "array", "items": reference, "minItems": 1, "maxItems": MAX_PARALLEL_CALLS}
        return {"anyOf": [reference, several] if self.parallel else [reference], "$defs": definitions}


def is_call(text: str) -> bool | None:
    """Whether an answer that may be a call is one; None while too little of it is there to tell."""
    return text[0] in "{[" if text else None


def calls_in(text: str, id_prefix: str) -> list[dict[str, object]] | None:
    """The calls that an answer makes, as OpenAI writes them, the last one as far as it came; None when it
    makes none.
    """
    if not is_call(text):
        return None
    reader = CallReader()
    reader.feed(text)
    return [
        {
            "id": f"{id_prefix}{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments or NO_ARGUMENTS},
        }
        for number, call in enumerate(reader.calls)
    ] or None


def written_calls(calls: Iterable[tuple[str, str]]) -> str:
    """Calls (names and arguments) of an earlier answer, as the model wrote them."""
    written = [
        f'{{"name": {json.dumps(name)}, "arguments": {arguments or "{}"}}}' for name, arguments in calls
    ]
    return written[0] if len(written) == 1 else f"[{', '.join(written)}]"


def written_result(name: str, text: str) -> str:
    """What a call gave, as the model is told."""
    return f"Result of {name}:\n{text}"


def _arguments(function: ToolFunction, prefix: str, definitions: Schema) -> object:
    """A function's parameters, whose own definitions are moved beside those of the others."""
    schema = dict(function.parameters or {"type": "object", "properties": {}, "additionalProperties": False})
    for keyword in ("$defs", "definitions"):
        moved = schema.pop(keyword, None)
        if isinstance(moved, Mapping):
            for name, definition in moved.items():
                definitions[f"{prefix}{name}"] = _renamed(definition, prefix)
    return _renamed(schema, prefix)


def _renamed(node: object, prefix: str) -> object:
    if isinstance(node, list):
        return [_renamed(child, prefix) for child in node]
    if not isinstance(node, dict):
        return node
    renamed = {key: _renamed(child, prefix) for key, child in cast("Schema", node).items()}
    reference = node.get("$ref")
    if isinstance(reference, str):
        for place in ("#/$defs/", "#/definitions/"):
            if reference.startswith(place):
                renamed["$ref"] = f"#/$defs/{prefix}{reference.removeprefix(place)}"
    return renamed
