"""A text that is not there yet, as a function sees it: it may be carried about, and reading it waits."""

from collections.abc import Callable
from typing import Any

from parrot.integrations.langchain.marks import map_texts

_CARRIES = frozenset(
    {
        "__new__", "__init__", "__class__", "__dict__", "__getattribute__", "__getattr__", "__setattr__",
        "__delattr__", "__init_subclass__", "__subclasshook__", "__sizeof__", "__dir__", "__getnewargs__",
        "__reduce__", "__reduce_ex__", "__getstate__", "__doc__", "__str__", "__format__", "__add__",
        "__weakref__", "__slots__", "__module__",
    }
)  # fmt: skip
"""What does not look at the text."""


class PendingText(str):
    """The mark of a text. Joining and formatting hand the mark on; every other method waits for the text and
    works on that.
    """

    __slots__ = ("_read",)
    _read: Callable[[str], str]

    def __new__(cls, mark: str, read: Callable[[str], str]) -> "PendingText":
        """`read` waits for the text that a mark stands for."""
        made = super().__new__(cls, mark)
        made._read = read
        return made

    def mark(self) -> str:
        """The mark itself."""
        return str.__getitem__(self, slice(None))

    def __str__(self) -> str:
        return self

    def __format__(self, spec: str) -> str:
        return format(self._read(self.mark()), spec) if spec else self.mark()

    def __add__(self, other: str) -> str:
        return PendingText(str.__add__(self.mark(), other), self._read)

    def __radd__(self, other: str) -> str:
        return PendingText(other + self.mark(), self._read)


def _reading(name: str) -> Callable[..., Any]:
    def method(self: PendingText, *args: object, **kwargs: object) -> Any:
        return getattr(self._read(self.mark()), name)(*args, **kwargs)

    method.__name__ = method.__qualname__ = name
    return method


for _name in set(dir(str)) - _CARRIES:
    setattr(PendingText, _name, _reading(_name))


def pending(value: Any, read: Callable[[str], str], has_mark: Callable[[str], bool]) -> Any:
    """`value` with every text that has a mark in it as a `PendingText`."""
    return map_texts(value, lambda text: PendingText(text, read) if has_mark(text) else text)
