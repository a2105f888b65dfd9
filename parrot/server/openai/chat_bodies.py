"""What OpenAI clients send for chat completions."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt

from parrot.core.estimates import text_tokens
from parrot.errors import InvalidError
from parrot.server.openai.bodies import (
    MAX_TOP_LOGPROBS,
    CacheTime,
    SamplingBody,
    TokenCount,
    refuse,
    unsupported,
)
from parrot.server.openai.tools import MAX_TOOLS, NamedTool, Tool, Toolbox, ToolCall, ToolChoice
from parrot.wire.requests import Text, Wire

MAX_MESSAGES = 1023
"""The answer is a message too."""


class CacheBreakpoint(Wire):
    """`prompt_cache_breakpoint`: what comes again ends here."""

    mode: Literal["explicit"]
    ttl: CacheTime | None = None
    """Taken and passed over: the request's own time counts."""


class TextPart(Wire):
    """A piece of a message's content; only text is understood."""

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: Text = ""
    refusal: Text = ""
    prompt_cache_breakpoint: CacheBreakpoint | None = None

    @property
    def words(self) -> str:
        """What it says."""
        return self.text or self.refusal


class Prediction(Wire):
    """`prediction`: what the answer will mostly be."""

    type: Literal["content"]
    content: Text | tuple[TextPart, ...]

    @property
    def num_tokens(self) -> int:
        """About how long it is."""
        texts = (self.content,) if isinstance(self.content, str) else (part.words for part in self.content)
        return sum(map(text_tokens, texts))


class ChatMessage(Wire):
    """One message."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Text | tuple[TextPart, ...] | None = None
    name: Text | None = None
    tool_call_id: Text | None = None
    refusal: Text | None = None
    annotations: tuple[dict[str, object], ...] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: tuple[ToolCall, ...] | None = None

    @property
    def text(self) -> str:
        """All its text."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.words for part in self.content)


class JsonSchema(Wire):
    """`json_schema` of a response format."""

    name: Text = ""
    description: Text | None = None
    schema_: Annotated[dict[str, object] | None, Field(alias="schema")] = None
    strict: StrictBool | None = None
    """Taken and passed over: outputs always follow the schema."""


class ResponseFormat(Wire):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_of_output(self) -> dict[str, object] | None:
        """What bounds the output; None when nothing does.

        Raises:
            InvalidError: `missing_field`.
        """
        if self.type == "json_object":
            return {"type": "object"}
        if self.type == "text":
            return None
        if self.json_schema is None or self.json_schema.schema_ is None:
            raise InvalidError(
                "a response format of this type needs a schema",
                code="missing_field",
                param="response_format.json_schema.schema",
            )
        return self.json_schema.schema_


class ChatBody(SamplingBody):
    """`POST /v1/chat/completions`."""

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: TokenCount | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    prediction: Prediction | None = None
    """Says how long the answer will be; its text is not made use of."""
    reasoning_effort: Text | None = None
    verbosity: Text | None = None
    modalities: tuple[Text, ...] | None = None
    audio: dict[str, object] | None = None
    web_search_options: dict[str, object] | None = None
    tools: Annotated[tuple[Tool, ...], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: StrictBool | None = None
    functions: tuple[dict[str, object], ...] | None = None
    function_call: object = None
    echo: StrictBool | None = None

    @property
    def most_tokens(self) -> int | None:
        """The bound on the answer, if one is given."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def predicted_tokens(self) -> int | None:
        """How long the answer is expected to be, if its sender says so."""
        return self.prediction.num_tokens if self.prediction is not None else super().predicted_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many likeliest tokens are to be told beside each token; None: nothing is told."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def toolbox(self) -> Toolbox | None:
        """The tools that may be called, if any. Raises as `Toolbox.of`."""
        named = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        word = None if isinstance(self.tool_choice, NamedTool) else self.tool_choice
        functions = [tool.function for tool in self.tools or ()]
        return Toolbox.of(functions, word, named, parallel=self.parallel_tool_calls)

    def check(self) -> None:
        """As for every body; and what only chats have."""
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidError("top_logprobs needs logprobs to be true", param="top_logprobs")
        refuse("modalities", self.modalities, None, ("text",))
        refuse("reasoning_effort", self.reasoning_effort, None, "none", "minimal")
        refuse("verbosity", self.verbosity, None, "medium")
        refuse("echo", self.echo, None, False)
        for name in ("audio", "web_search_options"):
            refuse(name, getattr(self, name), None)
        for name in ("functions", "function_call"):
            if getattr(self, name) not in (None, (), "none", "auto"):
                raise unsupported(name, "use tools")
