r"""Texts that stand for texts: what a framework is given in place of what is not there yet.

A mark is a short text between two private-use characters, with a tag that is its maker's own. Templates,
`str.join`, f-strings and messages carry it along like any other text, so whatever consumes a text can be told
what it consists of:

    "Combine: " + ⟨a7:0⟩ + "\n" + ⟨a7:1⟩      →      ["Combine: ", meaning 0, "\n", meaning 1]
"""

import re
import secrets
from typing import Generic, TypeVar

OPEN, CLOSE = "\ue0f0", "\ue0f1"

M = TypeVar("M")


class Marks(Generic[M]):
    """The marks of one run, and what each stands for."""

    def __init__(self) -> None:
        self._tag = secrets.token_hex(6)
        self._pattern = re.compile(f"{OPEN}{self._tag}:([0-9]+){CLOSE}")
        self._meanings: list[M] = []

    def add(self, meaning: M) -> str:
        """A new mark."""
        self._meanings.append(meaning)
        return f"{OPEN}{self._tag}:{len(self._meanings) - 1}{CLOSE}"

    def split(self, text: str) -> list[str | M]:
        """A text's pieces in order: plain text, and what marks stand for."""
        if OPEN not in text:
            return [text] if text else []
        pieces: list[str | M] = []
        for number, piece in enumerate(self._pattern.split(text)):
            if number % 2:
                pieces.append(self._meanings[int(piece)])
            elif piece:
                pieces.append(piece)
        return pieces

    def is_marked(self, text: str) -> bool:
        """Whether there is a mark in a text."""
        return OPEN in text and self._pattern.search(text) is not None
