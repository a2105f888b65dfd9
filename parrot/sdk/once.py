"""A result that is set once and awaited by many."""

import asyncio
from typing import Generic, TypeVar, cast

from parrot.errors import ParrotError

V = TypeVar("V")


class Once(Generic[V]):
    """Like a future, but nobody needs to look at its error, and cancelling one who waits does not cancel the
    others.

    What is set first stays; setting again does nothing.
    """

    __slots__ = ("_event", "_value", "error")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._value: V | None = None
        self.error: ParrotError | None = None
        """Why there will be no result."""

    @property
    def done(self) -> bool:
        """Whether it is set, to a result or an error."""
        return self._event.is_set()

    def set(self, value: V) -> None:
        """There is a result."""
        if not self.done:
            self._value = value
            self._event.set()

    def fail(self, error: ParrotError) -> None:
        """There will never be one."""
        if not self.done:
            self.error = error
            self._event.set()

    async def wait(self) -> V:
        """The result, when it is there; raises the error otherwise."""
        await self._event.wait()
        if self.error is not None:
            raise self.error
        return cast("V", self._value)
