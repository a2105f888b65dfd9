"""Registered functions as tools: their schemas, their calls, and what these gave."""

import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from anyio import CancelScope
from mcp_types import CallToolResult, TextContent, Tool

from parrot.errors import ParrotError, TemplateError
from parrot.sdk.client import Client
from parrot.sdk.connect import client_at, connect
from parrot.sdk.registered import registered_function
from parrot.wire.functions import FunctionView

TEXT: dict[str, object] = {"type": "string"}


class FunctionTools:
    """The functions of one service, or those of them that are named."""

    def __init__(self, url: str, *, only: Collection[str] = ()) -> None:
        self._url = url
        self._only = frozenset(only)

    async def list_tools(self, api_key: str | None) -> list[Tool]:
        """The latest version of each function, as a tool.

        Raises:
            ParrotError: the service refused, or does not answer.
        """
        async with self._client(api_key) as client:
            return [as_tool(view) for view in await client.functions() if self.offers(view.name)]

    async def call_tool(
        self, name: str, arguments: Mapping[str, object], api_key: str | None
    ) -> CallToolResult:
        """Call the latest version of a function, in a session of its own that ends with the call. What the
        service says against it is a result too, for the model that called to read.
        """
        try:
            async with self._client(api_key) as client:
                view = await client.function(name)
            return result_of(view, await self._outputs(view, inputs_of(view, arguments), api_key))
        except ParrotError as error:
            return failure(error)

    def offers(self, name: str) -> bool:
        """Whether a function of this name may be called at all."""
        return not self._only or name in self._only

    async def _outputs(
        self, view: FunctionView, inputs: Mapping[str, str], api_key: str | None
    ) -> dict[str, str]:
        stack = AsyncExitStack()
        try:
            session = await stack.enter_async_context(
                connect(self._url, api_key=api_key, name=f"mcp {view.name}", objective="latency")
            )
            made = session.call(registered_function(view), **inputs)
            variables = made if len(view.outputs) > 1 else (made,)
            return dict(zip(view.outputs, await session.gather(*variables), strict=True))
        finally:
            # Also when the agent has cancelled the call: its session is to end with it.
            with CancelScope(shield=True):
                await stack.aclose()

    @asynccontextmanager
    async def _client(self, api_key: str | None) -> AsyncIterator[Client]:
        client = client_at(self._url, api_key=api_key)
        try:
            yield client
        finally:
            await client.aclose()


def as_tool(view: FunctionView) -> Tool:
    """A function's name, description, inputs and outputs as the protocol has them."""
    inputs = {
        name: TEXT | ({} if known.default is None else {"default": known.default})
        for name, known in view.inputs.items()
    }
    outputs = {name: _schema_of(output) for name, output in view.outputs.items()}
    return Tool(
        name=view.name,
        description=view.description or f"The semantic function {view.name}.",
        input_schema=_object(
            inputs, required=[name for name, known in view.inputs.items() if known.default is None]
        ),
        output_schema=_object(outputs, required=list(outputs)),
    )


def inputs_of(view: FunctionView, arguments: Mapping[str, object]) -> dict[str, str]:
    """A call's inputs.

    Raises:
        TemplateError: an argument that the function does not have, that it misses, or that is no text.
    """
    inputs: dict[str, str] = {}
    for name, value in arguments.items():
        if name not in view.inputs:
            raise TemplateError(f"{view.name} has no input {name}", code="unused_parameter", param=name)
        if not isinstance(value, str):
            raise TemplateError(f"the input {name} is a text", code="invalid_value", param=name)
        inputs[name] = value
    missing = [n for n, known in view.inputs.items() if known.default is None and n not in inputs]
    if missing:
        raise TemplateError(
            f"{view.name} needs the input {missing[0]}", code="unbound_placeholder", param=missing[0]
        )
    return inputs


def result_of(view: FunctionView, texts: Mapping[str, str]) -> CallToolResult:
    """Outputs as content, one text for each, and as the values that the tool's output schema describes."""
    values: dict[str, object] = {}
    for name, text in texts.items():
        try:
            values[name] = text if _schema_of(view.outputs[name]) == TEXT else json.loads(text)
        except json.JSONDecodeError:
            return _failed(f"the output {name} was cut before its JSON was whole: {text}")
    return CallToolResult(
        content=[TextContent(type="text", text=text) for text in texts.values()], structured_content=values
    )


def failure(error: ParrotError) -> CallToolResult:
    """An error of the service as a result."""
    return _failed(f"error[{error.number}] {error.code}: {error.message}")


def _failed(message: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=message)], is_error=True)


def _object(properties: Mapping[str, object], *, required: list[str]) -> dict[str, object]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": required,
        "additionalProperties": False,
    }


def _schema_of(output: Mapping[str, object]) -> dict[str, object]:
    """What an output's value follows."""
    schema = output.get("schema")
    if not isinstance(schema, dict) or output.get("transforms"):
        return TEXT
    # A reference is resolved from the schema's root, which is another one in a tool's schema.
    return {} if '"$ref"' in json.dumps(schema) else schema
