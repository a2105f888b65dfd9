"""What OpenAI clients send to `/v1/responses`, and the conversation that it stands for."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt

from parrot.server.openai.bodies import StreamOptions, TokenCount, refuse, unsupported
from parrot.server.openai.chat_bodies import (
    MAX_MESSAGES,
    ChatBody,
    ChatMessage,
    JsonSchema,
    ResponseFormat,
    TextPart,
)
from parrot.server.openai.tools import (
    MAX_TOOLS,
    CalledFunction,
    FunctionChoice,
    FunctionName,
    NamedTool,
    Schema,
    Tool,
    ToolCall,
    ToolFunction,
)
from parrot.types.sampling import MAX_TOKENS_CAP
from parrot.wire.requests import Number, Reference, Text, Wire

Status = Literal["in_progress", "completed", "incomplete"]


class OutputTextPart(TextPart):
    """A piece of a message; answers given back have annotations, which say nothing to a model."""

    annotations: tuple[object, ...] | None = None
    logprobs: tuple[object, ...] | None = None


class MessageItem(Wire):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["developer", "system", "user", "assistant"]
    content: Text | tuple[OutputTextPart, ...]
    id: Text | None = None
    status: Status | None = None
    phase: Text | None = None


class FunctionCallItem(Wire):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: Text
    id: Text | None = None
    status: Status | None = None


class FunctionOutputItem(Wire):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: Text
    output: Text | tuple[OutputTextPart, ...]
    id: Text | None = None
    status: Status | None = None


Item = FunctionCallItem | FunctionOutputItem | MessageItem


class TextFormat(Wire):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"]
    name: Text = ""
    description: Text | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: StrictBool | None = None


class TextSettings(Wire):
    """`text`."""

    format: TextFormat | None = None
    verbosity: Text | None = None


class ResponseTool(Wire):
    """One entry of `tools`, in the flat form that responses have."""

    type: Literal["function"]
    name: FunctionName
    description: Text | None = None
    parameters: Schema | None = None
    strict: StrictBool | None = None


class ResponseToolChoice(Wire):
    """A choice of one function."""

    type: Literal["function"]
    name: FunctionName


class ConversationId(Wire):
    """`conversation` as an object."""

    id: Reference


class ResponseBody(Wire):
    """`POST /v1/responses`."""

    model: Text | None = None
    input: Text | Annotated[tuple[Item, ...], Field(max_length=MAX_MESSAGES)] = ()
    instructions: Text | None = None
    previous_response_id: Reference | None = None
    conversation: Reference | ConversationId | None = None
    background: StrictBool | None = None
    store: StrictBool | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: TokenCount | None = None
    min_tokens: Annotated[StrictInt, Field(ge=0, le=MAX_TOKENS_CAP)] = 0
    temperature: Annotated[Number, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    seed: Annotated[StrictInt, Field(ge=0, lt=2**53)] | None = None
    ignore_eos: StrictBool = False
    text: TextSettings | None = None
    tools: Annotated[tuple[ResponseTool, ...], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice | None = None
    parallel_tool_calls: StrictBool | None = None
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None
    priority: StrictInt | None = None
    metadata: Annotated[dict[Text, Text], Field(max_length=16)] | None = None
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Literal["in-memory", "24h"] | None = None
    include: tuple[Text, ...] | None = None
    reasoning: dict[str, object] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    top_logprobs: StrictInt | None = None
    max_tool_calls: StrictInt | None = None
    prompt: dict[str, object] | None = None

    @property
    def conversation_id(self) -> str | None:
        """The conversation that this is a turn of, if any."""
        return self.conversation.id if isinstance(self.conversation, ConversationId) else self.conversation

    def check(self) -> None:
        """Refuse what would change the answer and is not served.

        Raises:
            InvalidError: `unsupported`, naming the field.
        """
        refuse("truncation", self.truncation, "disabled", None)
        refuse("top_logprobs", self.top_logprobs, 0, None)
        refuse("max_tool_calls", self.max_tool_calls, None)
        refuse("prompt", self.prompt, None)
        if self.reasoning and any(value is not None for value in self.reasoning.values()):
            raise unsupported("reasoning")
        if self.include and "message.output_text.logprobs" in self.include:
            raise unsupported("include", "log-probabilities are told by chat completions")
        if self.previous_response_id is not None and self.conversation is not None:
            raise unsupported("conversation", "not together with previous_response_id")

    def messages(self) -> tuple[ChatMessage, ...]:
        """The input as messages."""
        if isinstance(self.input, str):
            return (ChatMessage(role="user", content=self.input),)
        return tuple(_messages(self.input))

    def chat(self, earlier: Sequence[ChatMessage]) -> ChatBody:
        """The same as a chat that goes on from `earlier` messages."""
        instructions = [ChatMessage(role="system", content=self.instructions)] if self.instructions else []
        choice = self.tool_choice
        return ChatBody.model_construct(
            model=self.model,
            messages=(*instructions, *earlier, *self.messages()),
            max_completion_tokens=self.max_output_tokens,
            min_tokens=self.min_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            ignore_eos=self.ignore_eos,
            response_format=_response_format(self.text.format if self.text is not None else None),
            tools=tuple(
                Tool(
                    type="function",
                    function=ToolFunction(
                        name=tool.name, description=tool.description, parameters=tool.parameters
                    ),
                )
                for tool in self.tools or ()
            ),
            tool_choice=(
                NamedTool(type="function", function=FunctionChoice(name=choice.name))
                if isinstance(choice, ResponseToolChoice)
                else choice
            ),
            parallel_tool_calls=self.parallel_tool_calls,
            service_tier=self.service_tier,
            priority=self.priority,
            metadata=self.metadata,
            user=self.user,
            prompt_cache_key=self.prompt_cache_key or self.conversation_id,
        )


def called(name: str, arguments: str, call_id: str) -> ToolCall:
    """A call as chats have it."""
    return ToolCall(id=call_id, function=CalledFunction(name=name, arguments=arguments))


def _messages(items: Sequence[Item]) -> Iterator[ChatMessage]:
    """Items as messages; calls that stand together are one message."""
    calls: list[ToolCall] = []
    for item in items:
        if isinstance(item, FunctionCallItem):
            calls.append(called(item.name, item.arguments, item.call_id))
            continue
        if calls:
            yield ChatMessage(role="assistant", tool_calls=tuple(calls))
            calls = []
        if isinstance(item, FunctionOutputItem):
            yield ChatMessage(role="tool", tool_call_id=item.call_id, content=_text(item.output))
        else:
            yield ChatMessage(role=item.role, content=_text(item.content))
    if calls:
        yield ChatMessage(role="assistant", tool_calls=tuple(calls))


def _text(content: str | Sequence[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text or part.refusal for part in content)


def _response_format(given: TextFormat | None) -> ResponseFormat | None:
    if given is None or given.type == "text":
        return None
    schema = JsonSchema.model_construct(name=given.name, schema_=given.schema_)
    return ResponseFormat.model_construct(type=given.type, json_schema=schema)
