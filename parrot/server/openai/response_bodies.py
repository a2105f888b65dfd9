"""What OpenAI clients send to `/v1/responses`, and the conversation that it stands for."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt

from parrot.server.openai.bodies import (
    MAX_TOP_LOGPROBS,
    HintedBody,
    ParrotBody,
    Penalty,
    StreamOptions,
    TokenCount,
    check_parrot,
    refuse,
    unsupported,
)
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
from parrot.wire.requests import MAX_PARAMETERS, Name, Number, Reference, Text, Wire

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


class PromptReference(Wire):
    """`prompt`: a registered function, and what its inputs stand for."""

    id: Name
    """Its name."""
    version: Annotated[Text, Field(pattern=r"^[0-9]{1,9}$")] | None = None
    """None for the latest."""
    variables: Annotated[dict[Name, Text | TextPart], Field(max_length=MAX_PARAMETERS)] | None = None

    @property
    def ref(self) -> str:
        """What a call names it by."""
        return self.id if self.version is None else f"{self.id}@{self.version}"

    def values(self) -> dict[str, str]:
        """The texts of its inputs."""
        given = self.variables or {}
        return {name: value if isinstance(value, str) else value.words for name, value in given.items()}


class ResponseBody(HintedBody):
    """`POST /v1/responses`."""

    model: Text | None = None
    input: Text | Annotated[tuple[Item, ...], Field(max_length=MAX_MESSAGES)] = ()
    instructions: Text | None = None
    prompt: PromptReference | None = None
    previous_response_id: Reference | None = None
    conversation: Reference | ConversationId | None = None
    background: StrictBool | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: TokenCount | None = None
    min_tokens: Annotated[StrictInt, Field(ge=0, le=MAX_TOKENS_CAP)] = 0
    temperature: Annotated[Number, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[StrictInt, Field(ge=0, lt=2**53)] | None = None
    ignore_eos: StrictBool = False
    text: TextSettings | None = None
    tools: Annotated[tuple[ResponseTool, ...], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice | None = None
    parallel_tool_calls: StrictBool | None = None
    include: tuple[Text, ...] | None = None
    reasoning: dict[str, object] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    max_tool_calls: StrictInt | None = None
    """Taken and passed over: it bounds tools that the service would run itself."""

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
        if self.reasoning and any(value is not None for value in self.reasoning.values()):
            raise unsupported("reasoning")
        if self.previous_response_id is not None and self.conversation is not None:
            raise unsupported("conversation", "not together with previous_response_id")
        if self.prompt is not None:
            refuse("tools", self.tools, None, ())
            refuse("instructions", self.instructions, None, "")
        if self.parrot is not None:
            self._check_parrot(self.parrot)

    def _check_parrot(self, parrot: ParrotBody) -> None:
        check_parrot(parrot, num_choices=1, streams=bool(self.stream))
        refuse("parrot.wait", parrot.wait, True)
        if parrot.session_id is not None:
            for name in ("background", "previous_response_id", "conversation", "prompt"):
                refuse(name, getattr(self, name), None, False)

    @property
    def num_logprobs(self) -> int | None:
        """How many likeliest tokens are to be told beside each token; None: nothing is told."""
        wanted = bool(self.top_logprobs) or "message.output_text.logprobs" in (self.include or ())
        return (self.top_logprobs or 0) if wanted else None

    def messages(self) -> tuple[ChatMessage, ...]:
        """The input as messages."""
        if isinstance(self.input, str):
            empty = self.prompt is not None and not self.input
            return () if empty else (ChatMessage(role="user", content=self.input),)
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
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            seed=self.seed,
            ignore_eos=self.ignore_eos,
            logprobs=self.num_logprobs is not None,
            top_logprobs=self.num_logprobs,
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
            prompt_cache_key=self.prompt_cache_key,
            prompt_cache_retention=self.prompt_cache_retention,
            prompt_cache_options=self.prompt_cache_options,
            parrot=self.parrot,
            nvext=self.nvext,
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
            yield ChatMessage(role=item.role, content=item.content)
    if calls:
        yield ChatMessage(role="assistant", tool_calls=tuple(calls))


def _text(content: str | Sequence[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.words for part in content)


def _response_format(given: TextFormat | None) -> ResponseFormat | None:
    if given is None or given.type == "text":
        return None
    schema = JsonSchema.model_construct(name=given.name, schema_=given.schema_)
    return ResponseFormat.model_construct(type=given.type, json_schema=schema)
