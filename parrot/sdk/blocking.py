"""The blocking faces: the same sessions and variables, driven from a thread without an event loop.

Everything happens in the asynchronous session, on an event loop in a thread of its own; each method here
waits for the method of the same name there.
"""

import functools
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import anyio.from_thread

from parrot.errors import UsageError
from parrot.sdk.connect import connect
from parrot.sdk.current import CURRENT
from parrot.sdk.function import SemanticFunction
from parrot.sdk.graph import Graph
from parrot.sdk.native import NativeFunction
from parrot.sdk.session import Session, SessionEvent
from parrot.sdk.submission import Group
from parrot.sdk.variable import SemanticVariable
from parrot.types.objective import Objective

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultTypeVar

    T_co = DefaultTypeVar("T_co", default=str, covariant=True)
else:
    T_co = TypeVar("T_co", covariant=True)

P = ParamSpec("P")
V = TypeVar("V")


LINGER_S = 0.002
"""Calls of a blocking program come one by one; those that come within this go in one request."""


class _Driver:
    """Runs coroutines on the event loop's thread and waits for them."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal) -> None:
        self._portal = portal
        self._pid = os.getpid()
        self.closed = False

    def run(self, work: Callable[..., Coroutine[Any, Any, V]], *args: Any, **kwargs: Any) -> V:
        """The result of `work(*args, **kwargs)`; it is cancelled when the wait is interrupted."""
        self._check()
        call: Callable[[], Coroutine[Any, Any, V]] = functools.partial(work, *args, **kwargs)
        future: Future[V] = self._portal.start_task_soon(call)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call(self, work: Callable[..., V], *args: Any, **kwargs: Any) -> V:
        """The same for a function that does not wait."""

        async def run() -> V:
            return work(*args, **kwargs)

        return self.run(run)

    def iterate(self, start: Callable[[], AsyncGenerator[V, None]]) -> Generator[V, None, None]:
        """The items of an asynchronous generator, one after the other."""
        items = self.call(start)
        try:
            while (found := self.run(_next, items)) is not None:
                yield found[0]
        finally:
            if not self.closed:
                self.run(_close, items)

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise UsageError("the session belongs to the process that opened it; connect again after a fork")
        if self.closed:
            raise UsageError("the session is closed")


class SyncVariable(Generic[T_co]):
    """A `SemanticVariable` whose methods block. Safe to use from any thread."""

    __slots__ = ("_driver", "variable")

    def __init__(self, variable: SemanticVariable[T_co], driver: _Driver) -> None:
        self._driver = driver
        self.variable = variable
        """The variable as the asynchronous session has it."""

    @property
    def name(self) -> str:
        """Its name in the session."""
        return self.variable.name

    @property
    def id(self) -> str | None:
        """Its identifier in the service, once the service has acknowledged it."""
        return self.variable.id

    def get(self, objective: Objective | None = None, timeout_s: float | None = None) -> T_co:
        """See `SemanticVariable.get`."""
        return self._driver.run(self.variable.get, objective, timeout_s)

    def text(self, objective: Objective | None = None, timeout_s: float | None = None) -> str:
        """See `SemanticVariable.text`."""
        return self._driver.run(self.variable.text, objective, timeout_s)

    def stream(self, objective: Objective | None = None) -> Generator[str, None, None]:
        """See `SemanticVariable.stream`."""
        return self._driver.iterate(functools.partial(self.variable.stream, objective))

    def set(self, text: str) -> None:
        """See `SemanticVariable.set`."""
        self._driver.run(self.variable.set, text)

    def __repr__(self) -> str:
        return repr(self.variable)


class SyncSession:
    """A `Session` whose methods block. Safe to use from any thread of its process."""

    def __init__(self, session: Session, driver: _Driver) -> None:
        self._session = session
        self._driver = driver
        self.name = session.name
        """The name given to `connect_sync`."""

    @property
    def id(self) -> str:
        """See `Session.id`."""
        return self._session.id

    def open(self) -> str:
        """See `Session.open`."""
        return self._driver.run(self._session.open)

    def call(
        self, function: SemanticFunction[Any] | NativeFunction[Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """See `Session.call`; gives a `SyncVariable`, or a named tuple of them."""
        bare_args, bare_kwargs = _bare(args), _bare(kwargs)
        return self._faced(self._driver.call(self._session.call, function, *bare_args, **bare_kwargs))

    @contextmanager
    def batch(self) -> Iterator[None]:
        """See `Session.batch`."""
        if self._session.in_batch():
            yield
            return
        group = self._driver.call(Group)
        try:
            with self._session.collect(group):
                yield
        except BaseException:
            self._driver.call(self._session.abandon, group)
            raise
        self._driver.run(self._session.send, group)

    def variable(self, name: str, value: str | None = None) -> SyncVariable[str]:
        """See `Session.variable`."""
        return SyncVariable(self._driver.call(self._session.variable, name, value), self._driver)

    def function(self, reference: str) -> SemanticFunction[Any]:
        """See `Session.function`."""
        return self._driver.run(self._session.function, reference)

    def register(
        self, function: SemanticFunction[Any], *, description: str | None = None, warm: bool = False
    ) -> SemanticFunction[Any]:
        """See `Session.register`."""
        return self._driver.run(self._session.register, function, description=description, warm=warm)

    def gather(
        self,
        *variables: SyncVariable[Any],
        objective: Objective | None = None,
        timeout_s: float | None = None,
    ) -> tuple[Any, ...]:
        """See `Session.gather`."""
        return self._driver.run(
            self._session.gather, *_bare(variables), objective=objective, timeout_s=timeout_s
        )

    def cancel(self, variable: SyncVariable[Any], *more: SyncVariable[Any]) -> tuple[str, ...]:
        """See `Session.cancel`."""
        return self._driver.run(self._session.cancel, *_bare((variable, *more)))

    def graph(self) -> Graph:
        """See `Session.graph`."""
        return self._driver.run(self._session.graph)

    def events(self) -> Generator[SessionEvent, None, None]:
        """See `Session.events`."""
        return self._driver.iterate(self._session.events)

    def _faced(self, result: Any) -> Any:
        if isinstance(result, tuple):
            return type(result)(*map(self._faced, result))
        return SyncVariable(result, self._driver)


def _blocking(
    connect: Callable[P, AbstractAsyncContextManager[Session]],
) -> Callable[P, AbstractContextManager[SyncSession]]:
    @functools.wraps(connect)
    @contextmanager
    def connect_sync(*args: P.args, **kwargs: P.kwargs) -> Iterator[SyncSession]:
        with (
            anyio.from_thread.start_blocking_portal(name="parrot-session") as portal,
            portal.wrap_async_context_manager(connect(*args, **kwargs)) as session,
        ):
            session.linger(LINGER_S)
            driver = _Driver(portal)
            faced = SyncSession(session, driver)
            previous = CURRENT.get()
            CURRENT.set(faced)
            try:
                yield faced
            finally:
                driver.closed = True
                if CURRENT.get() is faced:
                    CURRENT.set(previous)

    return connect_sync


connect_sync = _blocking(connect)
"""`connect` for programs without an event loop: `with parrot.connect_sync(…) as session:`, the same
arguments.

Inside the block functions return `SyncVariable`s. Leaving it, also by Ctrl-C, deletes the session and ends
the thread.
"""


def _bare(value: Any) -> Any:
    """The asynchronous variables in place of their faces, at any depth."""
    if isinstance(value, SyncVariable):
        return value.variable
    if isinstance(value, dict):
        return {key: _bare(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_bare(inner) for inner in value]
    if isinstance(value, tuple):
        bare = [_bare(inner) for inner in value]
        return type(value)(*bare) if hasattr(value, "_fields") else tuple(bare)
    return value


async def _next(items: AsyncGenerator[V, None]) -> tuple[V] | None:
    try:
        return (await anext(items),)
    except StopAsyncIteration:
        return None


async def _close(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()
