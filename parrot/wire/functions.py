"""Registered semantic functions: what clients register, and what they are told of it."""

from typing import Annotated

from pydantic import Field, StrictBool

from parrot.wire.answers import Answer
from parrot.wire.requests import (
    MAX_PARAMETERS,
    MessageSpec,
    Name,
    OutputSpec,
    Text,
    Wire,
)

MAX_DESCRIPTION_CHARS = 4096


class FunctionInputSpec(Wire):
    """An input of a registered function."""

    default: Text | None = None
    """Taken when a call does not say; without it the call has to."""


class FunctionSpec(Wire):
    """`PUT /v1/functions/{name}`: a template, or chat messages, with what calls need not say again.

    A placeholder that is not among `outputs` is an input.
    """

    template: Text | None = None
    messages: Annotated[tuple[MessageSpec, ...], Field(min_length=1, max_length=1024)] | None = None
    description: Annotated[Text, Field(max_length=MAX_DESCRIPTION_CHARS)] | None = None
    model: Text | None = None
    inputs: Annotated[dict[Name, FunctionInputSpec], Field(max_length=MAX_PARAMETERS)] = Field(
        default_factory=dict
    )
    outputs: Annotated[dict[Name, OutputSpec], Field(max_length=MAX_PARAMETERS)] = Field(default_factory=dict)
    warm: StrictBool = False
    """Have the prompt's constant beginning filled on every engine that comes up."""


class FunctionInputView(Answer):
    """An input of a registered function."""

    default: str | None = None


class FunctionView(Answer):
    """One version of a registered function."""

    name: str
    version: int
    """1, 2, 3 …; a number that was used once never means another template."""
    versions: tuple[int, ...]
    """All versions there are, oldest first."""
    created_at: float
    """Seconds since the epoch."""
    description: str | None
    model: str | None
    template: str | None
    messages: tuple[MessageSpec, ...] | None
    inputs: dict[str, FunctionInputView]
    """In the order of the prompt."""
    outputs: dict[str, dict[str, object]]
    """In the order of the prompt; each as in a call, what is as always left out."""
    warm: bool
    prefix_tokens: int | None
    """Tokens of the prompt before its first placeholder; None while no engine of the model has been up."""


class FunctionList(Answer):
    """`GET /v1/functions`: the latest version of each."""

    functions: tuple[FunctionView, ...]
    next: str | None = None


class WarmedEngine(Answer):
    """What one engine holds of a function's constant beginning."""

    engine_id: str
    held_tokens: int
    num_filled_tokens: int
    """Of these, the ones that were computed now."""


class WarmAnswer(Answer):
    """`POST /v1/functions/{ref}/warm`."""

    name: str
    version: int
    prefix_tokens: int
    engines: tuple[WarmedEngine, ...]
