"""A call's prompt, lowered to segments that are cut at semantic-variable boundaries (paper, section 4)."""

from collections.abc import Iterator
from dataclasses import dataclass

from parrot.types.ids import VariableId
from parrot.types.sampling import Grammar, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class StripTransform:
    """Remove white space at both ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegexTransform:
    """Take a group of the first match of an RE2 pattern."""

    pattern: str
    group: int | str = 0
    default: str | None = None
    """The value when nothing matches; without it the variable fails with `transform_no_match`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonTransform:
    """Parse as JSON and take what a JSON pointer (RFC 6901) names.

    A Markdown code fence around the JSON is taken off. A string is taken as it is, everything else as compact
    JSON text.
    """

    pointer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateTransform:
    """Put the value into a text in place of `{{value}}`; the value is not expanded again."""

    text: str


Transform = StripTransform | RegexTransform | JsonTransform | TemplateTransform


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantSegment:
    """Text of the template itself.

    With `markup`, special tokens written in it (`<|im_start|>`) stand for themselves; without, they are plain
    text.
    """

    text: str
    markup: bool = False
    shared: bool = False
    """The operator has published the prompt up to its end: all tenants may share it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSegment:
    """A place for a value; the value is data, so special tokens in it are plain text."""

    placeholder: str
    variable_id: VariableId


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSegment:
    """A place where the model generates; the generated text, transformed, becomes the variable's value."""

    placeholder: str
    variable_id: VariableId
    sampling: Sampling
    transforms: tuple[Transform, ...] = ()
    grammar: Grammar | None = None


Segment = ConstantSegment | InputSegment | OutputSegment


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A call's segments in order; an output is conditioned on everything before it."""

    model: str
    segments: tuple[Segment, ...]
    add_bos: bool = True
    """Begin with the beginning-of-sequence tokens, unless a chat template has written them already."""
    opaque: bool = False
    """Its segments say nothing about what it shares with others: that is found block by block."""
    published: tuple[str, ...] = ()
    """When opaque: beginnings of prompts that all tenants may share."""

    def outputs(self) -> Iterator[OutputSegment]:
        """The output segments in order."""
        return (s for s in self.segments if isinstance(s, OutputSegment))

    def inputs(self) -> Iterator[InputSegment]:
        """The input segments in order; one variable may stand in several."""
        return (s for s in self.segments if isinstance(s, InputSegment))
