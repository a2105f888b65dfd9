"""The one template language, read alike by service and SDK: text with placeholders, and nothing that runs.

    {{name}}            a placeholder; {{ name }} is the same
    {{input:name}}      the same, and it must be an input
    {{output:name}}     the same, and it must be an output
    {{{{                a literal {{
    everything else     is literal: {% x %}, {x}, a lone { or }, }}

So a run of braces is read from its left: fours are literal pairs, and of what is left one brace is literal,
two open a placeholder, three are a literal brace and a placeholder (`{"a": {{{a}}}` keeps its own braces).
Reading takes time linear in the text.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

from parrot.errors import TemplateError

PlaceholderKind = Literal["input", "output"]

MAX_REMEMBERED_CHARS = 8192
"""Longer templates are not remembered."""
_MAX_EXCERPT_CHARS = 24
_BRACES = re.compile(r"\{{2,}")
_PLACEHOLDER = re.compile(r"\{\{ *+(?:(input|output):)?([A-Za-z_][A-Za-z0-9_]{0,63}+) *+\}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """Literal text, escapes resolved."""

    text: str
    position: int
    """Where it begins in the template, in characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceholderPiece:
    """A placeholder."""

    name: str
    kind: PlaceholderKind | None
    """What the template says it is; None when it leaves that to the parameters."""
    position: int
    """Where its braces open, in characters."""


Piece = TextPiece | PlaceholderPiece


def parse_template(text: str) -> tuple[Piece, ...]:
    """The pieces of a template in order; no text piece is empty and no two of them stand side by side.

    Raises:
        TemplateError: `bad_placeholder`, with the position of the braces in `data["position"]`.
    """
    return _parse(text) if len(text) > MAX_REMEMBERED_CHARS else _parse_again(text)


def _parse(text: str) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    literal: list[str] = []
    literal_start = done = 0
    while braces := _BRACES.search(text, done):
        num_pairs, rest = divmod(len(braces.group()), 4)
        literal.append(text[done : braces.start()])
        literal.append("{{" * num_pairs)
        if rest % 2:
            literal.append("{")
        if rest < 2:
            done = braces.end()
            continue
        opening = braces.end() - 2
        found = _PLACEHOLDER.match(text, opening)
        if found is None:
            raise _bad_placeholder(text, opening)
        if before := "".join(literal):
            pieces.append(TextPiece(text=before, position=literal_start))
        kind = cast("PlaceholderKind | None", found.group(1))
        pieces.append(PlaceholderPiece(name=found.group(2), kind=kind, position=opening))
        literal.clear()
        literal_start = done = found.end()
    literal.append(text[done:])
    if after := "".join(literal):
        pieces.append(TextPiece(text=after, position=literal_start))
    return tuple(pieces)


_parse_again = lru_cache(maxsize=512)(_parse)
"""The templates of semantic functions come again and again."""


def write_template(pieces: Iterable[Piece]) -> str:
    """The template that reads as `pieces`, whose positions do not matter; the inverse of `parse_template`."""
    written: list[str] = []
    literal: list[str] = []
    for piece in pieces:
        if isinstance(piece, TextPiece):
            literal.append(piece.text)
            continue
        written.append(_escape("".join(literal)))
        literal.clear()
        kind = f"{piece.kind}:" if piece.kind else ""
        written.append(f"{{{{{kind}{piece.name}}}}}")
    written.append(_escape("".join(literal)))
    return "".join(written)


def _escape(text: str) -> str:
    return text.replace("{{", "{{{{")


def _bad_placeholder(text: str, position: int) -> TemplateError:
    excerpt = ascii(text[position : position + _MAX_EXCERPT_CHARS])
    return TemplateError(
        f"at character {position}, {excerpt} is not a placeholder: write {{{{name}}}}, a name being letters, "
        "digits and underscores, or {{{{ for two literal braces",
        code="bad_placeholder",
        data={"position": position},
    )
