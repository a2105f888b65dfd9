r"""Texts that stand for texts: what a lazy run puts in place of answers that are not there yet.

A mark is a short text between two private-use characters, with a tag that is the run's own. Prompt templates,
`str.join`, f-strings and messages carry it along like any other text, so whatever consumes a text can be told
what it consists of:

    "Combine: " + ⟨a7:0⟩ + "\n" + ⟨a7:1⟩      →      ["Combine: ", variable 0, "\n", variable 1]
"""

import re
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue

from parrot.sdk.variable import SemanticVariable

OPEN, CLOSE = "\ue0f0", "\ue0f1"


@dataclass(frozen=True, slots=True)
class Given:
    """A text that came from the program into a prompt template: its own segment of the prompt."""

    text: str


Answer: TypeAlias = Future[SemanticVariable[Any]]
"""The variable of a call that is on its way to the service."""

StandsFor: TypeAlias = Given | Answer


class Marks:
    """The marks of one run."""

    def __init__(self) -> None:
        self._tag = secrets.token_hex(6)
        self._pattern = re.compile(f"{OPEN}{self._tag}:([0-9]+){CLOSE}")
        self._meanings: list[StandsFor] = []

    def add(self, meaning: StandsFor) -> str:
        """A new mark."""
        self._meanings.append(meaning)
        return f"{OPEN}{self._tag}:{len(self._meanings) - 1}{CLOSE}"

    def split(self, text: str) -> list[str | StandsFor]:
        """A text's pieces in order: plain text, and what marks stand for."""
        text = plain(text)
        if OPEN not in text:
            return [text] if text else []
        pieces: list[str | StandsFor] = []
        for number, piece in enumerate(self._pattern.split(text)):
            if number % 2:
                pieces.append(self._meanings[int(piece)])
            elif piece:
                pieces.append(piece)
        return pieces

    def answers(self, value: object) -> list[Answer]:
        """The answers that marks anywhere in `value` stand for, each once."""
        found: dict[Answer, None] = {}
        for text in texts_in(value):
            for piece in self.split(text):
                if isinstance(piece, Future):
                    found[piece] = None
        return list(found)

    def is_in(self, value: object) -> bool:
        """Whether there is a mark anywhere in `value`."""
        return any(OPEN in text and self._pattern.search(text) for text in texts_in(value))

    def fill(self, value: Any, text_of: Callable[[Answer], str]) -> Any:
        """`value` with every mark replaced by the text that it stands for."""

        def filled(text: str) -> str:
            pieces = self.split(text)
            if len(pieces) == 1 and isinstance(pieces[0], str):
                return text
            return "".join(
                piece
                if isinstance(piece, str)
                else piece.text
                if isinstance(piece, Given)
                else text_of(piece)
                for piece in pieces
            )

        return map_texts(value, filled)


def plain(text: str) -> str:
    """The characters of a text, also of one whose methods do something else."""
    return text if type(text) is str else str.__getitem__(text, slice(None))


def texts_in(value: object) -> Iterator[str]:
    """Every text in the values that chains hand on: texts, messages, prompts, documents, and lists, tuples
    and dicts of them.
    """
    match value:
        case str():
            yield plain(value)
        case dict():
            for inner in value.values():
                yield from texts_in(inner)
        case list() | tuple():
            for inner in value:
                yield from texts_in(inner)
        case BaseMessage():
            yield from texts_in(value.content)
        case ChatPromptValue():
            yield from texts_in(value.messages)
        case StringPromptValue():
            yield value.text
        case Document():
            yield value.page_content
        case _:
            return


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every text of it changed; what holds no text is the same object."""
    match value:
        case str():
            return change(plain(value))
        case dict():
            return {key: map_texts(inner, change) for key, inner in value.items()}
        case list():
            return [map_texts(inner, change) for inner in value]
        case tuple():
            inner = [map_texts(each, change) for each in value]
            return type(value)(*inner) if hasattr(value, "_fields") else tuple(inner)
        case BaseMessage():
            return value.model_copy(update={"content": map_texts(value.content, change)})
        case ChatPromptValue():
            return value.model_copy(update={"messages": map_texts(value.messages, change)})
        case StringPromptValue():
            return value.model_copy(update={"text": change(value.text)})
        case Document():
            return value.model_copy(update={"page_content": change(value.page_content)})
        case _:
            return value
