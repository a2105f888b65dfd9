"""What clients send.

Strict: unknown fields are errors, `5.0` is not 5, and text is free of NUL and lone surrogates.

These models check shape and static bounds. What depends on configuration (limits), on the graph or on a
template's text is checked by the core.
"""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
)

from parrot.types.ids import FUNCTION_PATTERN, ID_PATTERN, NAME_PATTERN
from parrot.types.objective import Objective
from parrot.types.sampling import MAX_TOKENS_CAP

MAX_LABEL_CHARS = 256
MAX_STOP_STRINGS = 8
MAX_STOP_CHARS = 64
MAX_LOGIT_BIAS = 1024
"""Tokens whose logits one output may change."""
MAX_TRANSFORMS = 8
MAX_PARAMETERS = 128
MAX_DEADLINE_S = 7 * 24 * 3600.0


def _clean(text: str) -> str:
    if "\x00" in text:
        raise ValueError("nul_not_allowed")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("invalid_unicode") from None
    return text


def _name(text: str) -> str:
    if not NAME_PATTERN.match(text) or ID_PATTERN.match(text):
        raise ValueError("bad_name")
    return text


def _function(text: str) -> str:
    if not FUNCTION_PATTERN.match(text):
        raise ValueError("bad_name")
    return text


def _label(text: str) -> str:
    if not text.isprintable() or any(c in "\u200b\u200c\u200d\u2060\ufeff" for c in text):
        raise ValueError("bad_name")
    return text


Text = Annotated[StrictStr, AfterValidator(_clean)]
Name = Annotated[StrictStr, AfterValidator(_clean), AfterValidator(_name)]
Label = Annotated[
    StrictStr, Field(max_length=MAX_LABEL_CHARS), AfterValidator(_clean), AfterValidator(_label)
]
FunctionReference = Annotated[StrictStr, AfterValidator(_clean), AfterValidator(_function)]
Reference = Annotated[StrictStr, Field(min_length=1, max_length=128), AfterValidator(_clean)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Wire(BaseModel):
    """Base of every request model."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SessionCreate(Wire):
    """`POST /v1/sessions`."""

    name: Label | None = None
    objective: Objective | None = None
    deadline_s: Annotated[Number, Field(gt=0, le=MAX_DEADLINE_S)] | None = None
    """Seconds from now; what is not ready then fails with `deadline`."""
    metadata: Annotated[dict[Label, Label], Field(max_length=16)] = Field(default_factory=dict)


class SamplingSpec(Wire):
    """`sampling` of an output; see `parrot.types.sampling.Sampling`."""

    max_tokens: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS_CAP)] = 512
    min_tokens: Annotated[StrictInt, Field(ge=0, le=MAX_TOKENS_CAP)] = 0
    temperature: Annotated[Number, Field(ge=0, le=10)] = 0.0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[StrictInt, Field(ge=0, le=1_000_000)] = 0
    min_p: Annotated[Number, Field(ge=0, le=1)] = 0.0
    stop: Annotated[
        tuple[Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARS)], ...],
        Field(max_length=MAX_STOP_STRINGS),
    ] = ()
    seed: Annotated[StrictInt, Field(ge=0, lt=2**53)] | None = None
    ignore_eos: StrictBool = False
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[
        tuple[
            tuple[Annotated[StrictInt, Field(ge=0, lt=2**31)], Annotated[Number, Field(ge=-100, le=100)]], ...
        ],
        Field(max_length=MAX_LOGIT_BIAS),
    ] = ()
    expected_tokens: Annotated[StrictInt, Field(ge=0, le=MAX_TOKENS_CAP)] | None = None


class StripSpec(Wire):
    """Remove white space at both ends."""

    type: Literal["strip"]


class RegexSpec(Wire):
    """A group of the first match."""

    type: Literal["regex"]
    pattern: Text
    group: StrictInt | Text = 0
    default: Text | None = None


class JsonSpec(Wire):
    """Parse as JSON and take what the pointer names."""

    type: Literal["json"]
    pointer: Text = ""


class TemplateSpec(Wire):
    """Put the value into a text."""

    type: Literal["template"]
    text: Text


TransformSpec = Annotated[StripSpec | RegexSpec | JsonSpec | TemplateSpec, Field(discriminator="type")]


class ToldSampling(SamplingSpec):
    """Sampling that tells how likely each token was; made by the service alone."""

    logprobs: int | None = None


class OutputSpec(Wire):
    """What an output placeholder produces."""

    variable: Name | None = None
    """A name for the variable, unique in the session; without it the variable has its id only."""
    sampling: SamplingSpec = Field(default_factory=SamplingSpec)
    schema_: Annotated[dict[str, object] | None, Field(alias="schema")] = None
    regex: Text | None = None
    transforms: Annotated[tuple[TransformSpec, ...], Field(max_length=MAX_TRANSFORMS)] = ()


class ToolOutput(OutputSpec):
    """An output that may call a tool; made by the service alone."""

    or_text: bool = False
    """It follows the schema, or is any text that does not begin as JSON does."""


class OutputParameter(Wire):
    """`{"output": {…}}`."""

    output: OutputSpec


class ValueParameter(Wire):
    """`{"value": "…"}`."""

    value: Text


class TokensParameter(ValueParameter):
    """A value whose tokens are given. No client's JSON is read as one: the service makes it of prompts that
    come as token ids.
    """

    token_ids: tuple[int, ...]
    """What `value` is the text of; nothing is put before them."""
    model_hash: str
    """Whose tokens these are."""


class VariableParameter(Wire):
    """`{"variable": "name or id"}`."""

    variable: Reference


def _parameter_kind(value: object) -> str | None:
    present = value if isinstance(value, dict) else getattr(value, "__dict__", ())
    kinds = [kind for kind in ("output", "value", "variable") if kind in present]
    return kinds[0] if len(kinds) == 1 else None


Parameter = Annotated[
    Annotated[OutputParameter, Tag("output")]
    | Annotated[ValueParameter, Tag("value")]
    | Annotated[VariableParameter, Tag("variable")],
    Discriminator(_parameter_kind),
]


class MessageSpec(Wire):
    """One chat message; its content is a template."""

    role: Literal["system", "user", "assistant"]
    content: Text


class CallSpec(Wire):
    """One call: a template, chat messages or a registered function, and what its placeholders stand for."""

    name: Name | None = None
    model: Text | None = None
    function: FunctionReference | None = None
    """`name` for the latest version of a registered function, `name@3` for that one."""
    template: Text | None = None
    messages: Annotated[tuple[MessageSpec, ...], Field(min_length=1, max_length=1024)] | None = None
    parameters: Annotated[dict[Name, Parameter], Field(max_length=MAX_PARAMETERS)] = Field(
        default_factory=dict
    )


class SubmitCalls(Wire):
    """`POST /v1/sessions/{sid}/calls`."""

    calls: Annotated[tuple[CallSpec, ...], Field(min_length=1, fail_fast=True)]


class SetVariable(Wire):
    """`PUT /v1/sessions/{sid}/variables/{v}`."""

    value: Text


class CancelRequest(Wire):
    """`POST /v1/sessions/{sid}/cancel`; with neither list, everything in the session."""

    calls: Annotated[tuple[Reference, ...], Field(fail_fast=True)] | None = None
    variables: Annotated[tuple[Reference, ...], Field(fail_fast=True)] | None = None
