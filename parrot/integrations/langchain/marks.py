"""Marks in the values that chains hand on: texts, messages, prompts, documents, and containers of them."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeAlias

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue

from parrot.integrations.marks import Marks
from parrot.integrations.run import Answer, Given

StandsFor: TypeAlias = Given | Answer


class TextMarks(Marks[StandsFor]):
    """The marks of one lazy run."""

    def split(self, text: str) -> list[str | StandsFor]:
        """A text's pieces in order, also of a text whose methods do something else."""
        return super().split(plain(text))

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
        return any(map(self.is_marked, texts_in(value)))

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
