"""The session in whose `with` block a function is called."""

from contextvars import ContextVar
from typing import Any, Protocol

from parrot.errors import UsageError


class Caller(Protocol):
    """What runs calls: a session, blocking or not."""

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Submit one call of a semantic or native function."""
        ...


CURRENT: ContextVar[Caller | None] = ContextVar("parrot_session", default=None)
"""Set by `connect` for the task (or thread) that entered it and everything started from there."""


def current_session(function: str) -> Caller:
    """The session that a bare call of `function` goes to.

    Raises:
        UsageError: there is none.
    """
    session = CURRENT.get()
    if session is None:
        raise UsageError(
            f"{function}() was called outside any session: call it inside `async with parrot.connect(…):` or "
            f"`with parrot.connect_sync(…):`, or say where it runs with `session.call({function}, …)` or "
            f"`{function}.using(session)(…)`"
        )
    return session
