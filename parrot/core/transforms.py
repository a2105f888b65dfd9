"""Transforms: what is made of an output's text before it becomes its variable's value (paper, section 4.1).

They are declared, checked when a call is submitted, and bounded when they run. Patterns are RE2's, whose
matching time is linear in the text (Cox, "Regular Expression Matching in the Wild", 2010); what is left to
bound is the factor, which is the size of the compiled pattern.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, assert_never, cast

import re2

from parrot.core.limits import Limits
from parrot.core.locations import at
from parrot.errors import CallError, InvalidError, RequestError, TemplateError, TooLargeError
from parrot.types.program import (
    JsonTransform,
    RegexTransform,
    StripTransform,
    TemplateTransform,
    Transform,
)
from parrot.types.template import Piece, PlaceholderPiece, parse_template
from parrot.wire.json import decode_json
from parrot.wire.quoting import quoted
from parrot.wire.requests import JsonSpec, RegexSpec, StripSpec, TemplateSpec, TransformSpec

MAX_PATTERN_INSTRUCTIONS = 10_000
"""Size of a compiled pattern."""
MAX_MATCH_STEPS = 100_000_000
"""Instructions times bytes of text: what RE2 does at worst, some nanoseconds for each."""
MAX_POINTER_BYTES = 512
MAX_CACHED_PATTERNS = 32

_FENCE = re.compile(r"\s*(`{3,}|~{3,})[^\n`]*\n(.*)\n[ \t]*\1[`~]*\s*\Z", re.DOTALL)
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*\Z")
_INDEX = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")
_VALUE_PLACEHOLDER = "value"


class Match(Protocol):
    """A match of a compiled pattern, as far as it is used here."""

    def group(self, group: int | str) -> str | None:
        """What a group took; None when it took no part."""
        ...


class Pattern(Protocol):
    """A compiled pattern, as far as it is used here."""

    @property
    def groups(self) -> int:
        """How many groups it has."""
        ...

    @property
    def groupindex(self) -> dict[str, int]:
        """Its named groups."""
        ...

    @property
    def programsize(self) -> int:
        """How many instructions it has."""
        ...

    def search(self, text: str) -> Match | None:
        """The first match."""
        ...


def compile_transforms(specs: Sequence[TransformSpec], limits: Limits) -> tuple[Transform, ...]:
    """Check transforms as they were submitted; `param` of an error is relative: `transforms[1].pattern`.

    Raises:
        InvalidError: `regex_unsupported`, `regex_too_large`, `bad_transform`.
    """
    transforms: list[Transform] = []
    for index, spec in enumerate(specs):
        with at(f"transforms[{index}]"):
            transforms.append(_compile(spec, limits))
    return tuple(transforms)


def apply_transforms(transforms: Sequence[Transform], value: str, limits: Limits) -> str:
    """The value that transforms make of a text, one after the other.

    Raises:
        CallError: `transform_no_match`, `transform_bad_json`, `transform_missing`, `value_too_large`.
    """
    _check_size(value, limits)
    for transform in transforms:
        match transform:
            case StripTransform():
                value = value.strip()
            case RegexTransform():
                value = _take_group(transform, value, limits)
            case JsonTransform():
                value = _take_json(transform, value, limits)
            case TemplateTransform():
                value = _fill_template(transform, value, limits)
            case _:
                assert_never(transform)
        _check_size(value, limits)
    return value


def compile_pattern(pattern: str, limits: Limits, *, max_bytes: int) -> Pattern:
    """A pattern, compiled within the limits on its length, its memory and its size.

    Raises:
        InvalidError: `regex_unsupported`, `regex_too_large`.
    """
    if len(pattern.encode()) > max_bytes:
        raise InvalidError(f"a pattern may have {max_bytes:,} bytes", code="regex_too_large")
    try:
        compiled = _compiled(pattern, limits.regex_memory_bytes)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        if "too large" in reason or "repetition size" in reason:
            raise InvalidError(f"the pattern is too big: {quoted(reason)}", code="regex_too_large") from None
        raise InvalidError(
            f"RE2, which has no look-around and no back-references, refuses it: {quoted(reason)}",
            code="regex_unsupported",
        ) from None
    if compiled.programsize > MAX_PATTERN_INSTRUCTIONS:
        raise InvalidError(
            f"the pattern compiles to {compiled.programsize:,} instructions: repeat less, so that it "
            f"has at most {MAX_PATTERN_INSTRUCTIONS:,}",
            code="regex_too_large",
        )
    return compiled


def _compile(spec: TransformSpec, limits: Limits) -> Transform:
    match spec:
        case StripSpec():
            return StripTransform()
        case RegexSpec():
            return _compile_regex(spec, limits)
        case JsonSpec():
            return _compile_json(spec)
        case TemplateSpec():
            return _compile_template(spec, limits)
        case _:
            assert_never(spec)


def _compile_regex(spec: RegexSpec, limits: Limits) -> RegexTransform:
    with at("pattern"):
        compiled = compile_pattern(spec.pattern, limits, max_bytes=limits.max_regex_bytes)
    known = (
        spec.group in compiled.groupindex
        if isinstance(spec.group, str)
        else 0 <= spec.group <= compiled.groups
    )
    if not known:
        raise InvalidError("the pattern has no such group", code="bad_transform", param="group")
    return RegexTransform(pattern=spec.pattern, group=spec.group, default=spec.default)


def _compile_json(spec: JsonSpec) -> JsonTransform:
    if len(spec.pointer.encode()) > MAX_POINTER_BYTES or not _POINTER.match(spec.pointer):
        raise InvalidError(
            "a JSON pointer is empty or begins with a slash, writes ~ as ~0, and has at most "
            f"{MAX_POINTER_BYTES} bytes (RFC 6901)",
            code="bad_transform",
            param="pointer",
        )
    return JsonTransform(pointer=spec.pointer)


def _compile_template(spec: TemplateSpec, limits: Limits) -> TemplateTransform:
    if len(spec.text.encode()) > limits.max_template_bytes:
        raise TooLargeError(
            f"a template may have {limits.max_template_bytes:,} bytes",
            param="text",
            data={"limit_bytes": limits.max_template_bytes},
        )
    try:
        pieces = parse_template(spec.text)
    except TemplateError as error:
        raise InvalidError(error.message, code="bad_transform", param="text", data=error.data) from None
    places = [piece for piece in pieces if isinstance(piece, PlaceholderPiece)]
    if not places or any(_is_foreign(place) for place in places) or len(places) > limits.max_placeholders:
        raise InvalidError(
            f"a transform's template has {{{{value}}}} in it, at most {limits.max_placeholders} times, "
            "and no other placeholder",
            code="bad_transform",
            param="text",
        )
    return TemplateTransform(text=spec.text)


def _is_foreign(place: PlaceholderPiece) -> bool:
    return place.name != _VALUE_PLACEHOLDER or place.kind == "output"


@lru_cache(maxsize=MAX_CACHED_PATTERNS)
def _compiled(pattern: str, memory_bytes: int) -> Pattern:
    options = re2.Options()
    options.max_mem = memory_bytes
    options.log_errors = False
    try:
        return cast("Pattern", re2.compile(pattern, options))
    finally:
        # The library remembers 128 patterns of up to `memory_bytes` each; this cache is the one that counts.
        re2.purge()


@lru_cache(maxsize=MAX_CACHED_PATTERNS)
def _parsed(text: str) -> tuple[Piece, ...]:
    return parse_template(text)


def _take_group(transform: RegexTransform, value: str, limits: Limits) -> str:
    pattern = _compiled(transform.pattern, limits.regex_memory_bytes)
    if pattern.programsize * len(value.encode()) > MAX_MATCH_STEPS:
        raise CallError(
            f"{len(value):,} characters are too many for a pattern of {pattern.programsize:,} instructions",
            code="value_too_large",
        )
    found = pattern.search(value)
    taken = found.group(transform.group) if found is not None else None
    if taken is not None:
        return taken
    if transform.default is not None:
        return transform.default
    raise CallError("the transform's pattern does not match the text", code="transform_no_match")


def _take_json(transform: JsonTransform, value: str, limits: Limits) -> str:
    fenced = _FENCE.match(value)
    text = fenced.group(2) if fenced is not None else value
    try:
        node = decode_json(text.encode(), max_depth=limits.max_json_depth, max_keys=limits.max_json_keys)
    except RequestError as error:
        raise CallError(
            f"the text is not JSON that can be used ({error.code})",
            code="transform_bad_json",
            data={"reason": error.code},
        ) from None
    for written in transform.pointer.split("/")[1:]:
        node = _step(node, written.replace("~1", "/").replace("~0", "~"))
    return node if isinstance(node, str) else json.dumps(node, ensure_ascii=False, separators=(",", ":"))


def _step(node: object, key: str) -> object:
    """The member that one part of a JSON pointer names."""
    if isinstance(node, dict) and key in node:
        return node[key]
    if isinstance(node, list) and _INDEX.match(key) and int(key) < len(node):
        return node[int(key)]
    raise CallError("the JSON has nothing where the transform's pointer leads", code="transform_missing")


def _fill_template(transform: TemplateTransform, value: str, limits: Limits) -> str:
    pieces = _parsed(transform.text)
    num_places = sum(isinstance(piece, PlaceholderPiece) for piece in pieces)
    if num_places * len(value.encode()) > limits.max_value_bytes:
        raise _value_too_large(limits)
    return "".join(value if isinstance(piece, PlaceholderPiece) else piece.text for piece in pieces)


def _check_size(value: str, limits: Limits) -> None:
    if len(value.encode()) > limits.max_value_bytes:
        raise _value_too_large(limits)


def _value_too_large(limits: Limits) -> CallError:
    return CallError(
        f"the value grew beyond {limits.max_value_bytes:,} bytes",
        code="value_too_large",
        data={"limit_bytes": limits.max_value_bytes},
    )
