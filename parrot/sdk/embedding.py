"""Where `connect()` without an address goes: a service that whoever assembles Parrot provides.

The SDK lies below the service and never imports it, so the assembly registers a starter here.
"""

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

Message = MutableMapping[str, Any]
ASGIApp = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
"""An ASGI 3 application: `app(scope, receive, send)`."""


class StartEmbedded(Protocol):
    """Starts a service in this process; the context manager's exit stops it."""

    def __call__(self, *, model: str | None, engine: str | None) -> AbstractAsyncContextManager[ASGIApp]:
        """A service with one engine: of the `engine` kind, with the `model`; the defaults when None."""
        ...


_starters: list[StartEmbedded] = []
_default_url: ContextVar[str | None] = ContextVar("parrot_default_url", default=None)


def provide(start: StartEmbedded) -> None:
    """Register how a service is started in this process; the latest registration counts."""
    _starters.append(start)


def starter() -> StartEmbedded | None:
    """What was registered last, if anything."""
    return _starters[-1] if _starters else None


@contextmanager
def default_service(url: str) -> Iterator[None]:
    """Inside, `connect()` without an address goes to the service at `url` instead of starting one.

    Holds for this context and for tasks and event loops that begin in it.
    """
    token = _default_url.set(url)
    try:
        yield
    finally:
        _default_url.reset(token)


def default_url() -> str | None:
    """The address that `default_service` gave, if any."""
    return _default_url.get()
