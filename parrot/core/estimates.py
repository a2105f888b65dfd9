"""How much work a call will be: tokens in, known or expected; tokens out, bounded at first and then learnt.

A **semantic function** is recognised by its template: calls whose prompts differ only in the values of their
inputs have equal keys, and how long their outputs were says how long the next will be.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from statistics import fmean
from typing import NewType

import msgspec

from parrot.types.ids import TenantId, VariableId
from parrot.types.program import ConstantSegment, InputSegment, OutputSegment, Program, Segment
from parrot.types.sampling import Sampling

FunctionKey = NewType("FunctionKey", bytes)
"""Stands for one output of one semantic function of one tenant, on one model."""

BYTES_PER_TOKEN = 4
"""Bytes of UTF-8 text for each token, where a text has not been tokenised yet: about right for English."""
UNKNOWN_INPUT_TOKENS = 256
"""What an input is taken for that a client has still to set."""
WINDOW = 64
"""Outputs of one semantic function that are remembered."""
TRUSTED_SAMPLES = 8
"""With so many outputs seen, the bound `max_tokens` no longer counts in the expectation."""
UNLEARNT = FunctionKey(b"")
"""Of outputs whose lengths are given; they are no function's."""
MAX_FUNCTIONS = 4096
"""Semantic functions that are remembered; the least recently used is forgotten first."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens to be computed."""

    prompt_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
        )

    def __sub__(self, other: "Work") -> "Work":
        return Work(
            prompt_tokens=self.prompt_tokens - other.prompt_tokens,
            output_tokens=self.output_tokens - other.output_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long an engine takes for one call's tokens. The defaults are for engines not yet measured."""

    prefill_s: float = 0.0002
    """Seconds for each prompt token."""
    decode_s: float = 0.02
    """Seconds for each output token."""

    def seconds(self, work: Work) -> float:
        """How long work takes when it is done one token after the other."""
        return work.prompt_tokens * self.prefill_s + work.output_tokens * self.decode_s


class OutputShape(msgspec.Struct, frozen=True, kw_only=True):
    """One output of a call."""

    variable_id: VariableId
    function: FunctionKey
    sampling: Sampling


class CallShape(msgspec.Struct, frozen=True, kw_only=True):
    """What a call's work depends on."""

    constant_tokens: int
    """Tokens of the template's own text."""
    inputs: Mapping[VariableId, int]
    """How often each input stands in the prompt."""
    outputs: tuple[OutputShape, ...]


def text_tokens(text: str) -> int:
    """About how many tokens a text has."""
    num_bytes = len(text) if text.isascii() else len(text.encode())
    return -(-num_bytes // BYTES_PER_TOKEN)


def shape_of(
    program: Program, *, tenant_id: TenantId, count_tokens: Callable[[str], int] = text_tokens
) -> CallShape:
    """The shape of a lowered call.

    An output's key is a hash over everything before it but the values of inputs, over its bound and over its
    grammar. Tenants do not learn from each other, so that none can tell by timing what another runs.
    """
    # Of outputs whose lengths are given nothing is learnt.
    learns = any(isinstance(s, OutputSegment) and not s.sampling.ignore_eos for s in program.segments)
    hasher = _ShapeHasher(tenant_id, program.model) if learns else None
    constant_tokens = 0
    inputs: dict[VariableId, int] = {}
    outputs: list[OutputShape] = []
    for segment in program.segments:
        if hasher is not None:
            hasher.note(segment)
        if isinstance(segment, ConstantSegment):
            constant_tokens += count_tokens(segment.text)
        elif isinstance(segment, InputSegment):
            inputs[segment.variable_id] = inputs.get(segment.variable_id, 0) + 1
        else:
            outputs.append(
                OutputShape(
                    variable_id=segment.variable_id,
                    function=UNLEARNT if hasher is None else hasher.key(),
                    sampling=segment.sampling,
                )
            )
    return CallShape(constant_tokens=constant_tokens, inputs=inputs, outputs=tuple(outputs))


class _ShapeHasher:
    """What makes two outputs those of one semantic function."""

    def __init__(self, tenant_id: TenantId, model: str) -> None:
        self._hasher = blake2b(digest_size=16)
        self._note(tenant_id, model)

    def note(self, segment: Segment) -> None:
        """Go on to the end of a segment."""
        match segment:
            case ConstantSegment():
                self._note("constant", segment.text)
            case InputSegment():
                self._note("input", segment.placeholder)
            case OutputSegment():
                self._note("output", segment.placeholder, str(segment.sampling.max_tokens))
                self._note(segment.grammar.source if segment.grammar is not None else "")

    def key(self) -> FunctionKey:
        """Of the output that was noted last."""
        return FunctionKey(self._hasher.digest())

    def _note(self, *parts: str) -> None:
        for part in parts:
            data = part.encode()
            self._hasher.update(len(data).to_bytes(4, "big"))
            self._hasher.update(data)


class OutputLengths:
    """How long outputs of semantic functions are.

    The last `WINDOW` lengths of each function are kept, so that the estimate follows a function that changes,
    and one odd output is one in a window.
    """

    def __init__(self, max_functions: int = MAX_FUNCTIONS) -> None:
        self._max_functions = max_functions
        self._seen: OrderedDict[FunctionKey, deque[int]] = OrderedDict()

    def observe(self, function: FunctionKey, num_tokens: int) -> None:
        """An output of this function had so many tokens."""
        lengths = self._seen.setdefault(function, deque(maxlen=WINDOW))
        lengths.append(num_tokens)
        self._seen.move_to_end(function)
        if len(self._seen) > self._max_functions:
            self._seen.popitem(last=False)

    def expected(self, output: OutputShape) -> int:
        """Tokens to be expected: what the client says, else `max_tokens` while nothing was seen, the mean
        once `TRUSTED_SAMPLES` were, and in between something in between.
        """
        sampling = output.sampling
        if sampling.expected_tokens is not None and not sampling.ignore_eos:
            return _within(sampling.expected_tokens, sampling)
        lengths = self._seen.get(output.function)
        if sampling.ignore_eos or not lengths:
            return sampling.max_tokens
        trust = min(1.0, len(lengths) / TRUSTED_SAMPLES)
        mean = trust * fmean(lengths) + (1.0 - trust) * sampling.max_tokens
        return _within(ceil(mean), sampling)

    def at_most(self, output: OutputShape, quantile: float = 0.9) -> int:
        """Tokens that this share of outputs does not exceed, for decisions that must not be too hopeful;
        `max_tokens` until `TRUSTED_SAMPLES` were seen.
        """
        sampling = output.sampling
        lengths = self._seen.get(output.function, ())
        if sampling.ignore_eos or len(lengths) < TRUSTED_SAMPLES:
            return sampling.max_tokens
        rank = min(len(lengths) - 1, ceil(quantile * len(lengths)) - 1)
        return _within(sorted(lengths)[max(0, rank)], sampling)

    @property
    def num_functions(self) -> int:
        """Functions known."""
        return len(self._seen)


def _within(num_tokens: int, sampling: Sampling) -> int:
    """A length as a call can have it: at least one token is worked for, and no more than its bound."""
    return min(max(num_tokens, sampling.min_tokens, 1), sampling.max_tokens)
