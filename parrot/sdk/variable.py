"""Semantic variables, as an application holds them."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, cast

from parrot.errors import CallError, ParrotError, UsageError
from parrot.sdk.following import Followed, Wanted
from parrot.sdk.once import Once
from parrot.types.objective import OBJECTIVES, Objective

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T_co = TypeVar("T_co", default=str, covariant=True)
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)


class VariableAccess(Protocol):
    """What a variable asks of its session."""

    async def read_text(
        self, variable: "SemanticVariable[Any]", objective: Objective | None, timeout_s: float | None
    ) -> str:
        """Wait for the value."""
        ...

    def stream_text(
        self, variable: "SemanticVariable[Any]", objective: Objective | None
    ) -> AsyncGenerator[str, None]:
        """The value piece by piece."""
        ...

    async def write_text(self, variable: "SemanticVariable[Any]", text: str) -> None:
        """Set the value."""
        ...


class SemanticVariable(Generic[T_co]):
    """A named piece of text that a call produces, or this program sets, and that others consume.

    Pass it to another function to link the two calls; `await` it, `get` it or `stream` it to see its value.
    Made by calling a function or by `session.variable(name)`, never directly.
    """

    __slots__ = (
        "_access",
        "_parse",
        "accepted",
        "consumed",
        "followed",
        "id",
        "inputs",
        "local",
        "name",
        "settable",
        "wanted",
    )

    def __init__(
        self,
        access: VariableAccess,
        name: str,
        *,
        parse: Callable[[str], object] | None = None,
        inputs: "Iterable[SemanticVariable[Any]]" = (),
        accepted: Once[None] | None = None,
        local: Once[str] | None = None,
        settable: bool = False,
    ) -> None:
        self._access = access
        self._parse = parse
        self.name = name
        """Its name in the session."""
        self.id: str | None = None
        """Its identifier in the service, once the service has acknowledged it."""
        self.inputs = tuple(inputs)
        """The variables that its producer consumes."""
        self.accepted = accepted
        """For a call's output, or a value that goes with calls: whether the service has taken them."""
        self.local = local
        """For a value that comes from this program: the value."""
        self.settable = settable
        """Whether it is an input variable: this program sets it, or somebody else does."""
        self.consumed = False
        """Whether a call that the service has taken waits for it."""
        self.wanted: Wanted | None = None
        """For a call's output: how somebody waits for it, while the call is not submitted."""
        self.followed: Followed | None = None
        """For a call's output: what the service tells of it by itself."""

    async def get(self, objective: Objective | None = None, timeout_s: float | None = None) -> T_co:
        """Wait for the value.

        Args:
            objective: How the caller waits, for the service to plan by: `latency` when somebody waits for
                this very value, `throughput` when only the completion of everything counts.
            timeout_s: Seconds to wait at most; None waits until there is a value or an error, 0 only looks.

        Raises:
            WaitTimeoutError: not ready in time; the call goes on, or is still to be taken, and why is said.
            CallError: the call failed, or something it depends on; `code` says how, `bad_value` that the text
                is not of the declared type.
            UnreachableError: the service cannot be reached.
            RequestError: the service refused the submission.
        """
        text = await self.text(objective, timeout_s)
        return cast("T_co", text if self._parse is None else self._parse(text))

    async def text(self, objective: Objective | None = None, timeout_s: float | None = None) -> str:
        """As `get`, but the text itself, whatever type was declared."""
        check_objective(objective)
        check_timeout(timeout_s)
        return await self._access.read_text(self, objective, timeout_s)

    def stream(self, objective: Objective | None = None) -> AsyncGenerator[str, None]:
        """The text in pieces, as the model writes it; the pieces joined are the text.

        A connection that breaks is taken up where it broke. When the call must be run again and then writes
        something else than was streamed already, the iterator raises `ParrotError` (`stream_reset`); `get`
        still works.
        """
        check_objective(objective)
        return self._access.stream_text(self, objective)

    async def set(self, text: str) -> None:
        """Give an input variable its value, once; the same value again is fine.

        Raises:
            TypeError: not a `str`.
            UsageError: the variable is produced by a call or function.
            ConflictError: it has another value already.
        """
        if not isinstance(text, str):
            raise TypeError(f"variable {self.name}: a value is a str, not {type(text).__name__}")
        await self._access.write_text(self, text)

    @property
    def failure(self) -> ParrotError | None:
        """Why this variable will never get a value, as far as this program can know without asking."""
        for once in (self.accepted, self.local):
            if once is not None and once.error is not None:
                return once.error
        return None

    def belongs_to(self, access: VariableAccess) -> bool:
        """Whether it is a variable of this session."""
        return self._access is access

    def __await__(self) -> Generator[Any, Any, T_co]:
        return self.get().__await__()

    def __repr__(self) -> str:
        return f"<semantic variable {self.name}>"


def upstream(variable: SemanticVariable[Any]) -> Iterator[SemanticVariable[Any]]:
    """All that its value depends on, each once, nearest first."""
    waiting = deque(variable.inputs)
    seen = set(map(id, waiting))
    while waiting:
        current = waiting.popleft()
        yield current
        fresh = [before for before in current.inputs if id(before) not in seen]
        seen.update(map(id, fresh))
        waiting.extend(fresh)


def upstream_failure(variable: SemanticVariable[Any]) -> CallError | None:
    """The error for a variable whose producer consumes, directly or not, one that failed in this program."""
    for before in upstream(variable):
        failure = before.failure
        if failure is not None and failure.code != "upstream_failed":
            return CallError(
                f"{variable.name} needs {before.name}, which failed: {failure.message}",
                code="upstream_failed",
                data={"root": failure.code, "root_variable": before.name, "message": failure.message},
            )
    return None


def check_objective(objective: object) -> None:
    """Refuse what is no objective, before anything is sent."""
    if objective is not None and objective not in OBJECTIVES:
        raise UsageError(f"objective is {' or '.join(OBJECTIVES)}, not {objective!r}", param="objective")


def check_timeout(timeout_s: object) -> None:
    """Refuse what is no time to wait."""
    if timeout_s is None:
        return
    if (
        isinstance(timeout_s, bool)
        or not isinstance(timeout_s, (int, float))
        or not 0 <= timeout_s < math.inf
    ):
        raise UsageError(f"timeout_s is a number of seconds, 0 or more, not {timeout_s!r}", param="timeout_s")


async def gather(
    variables: Iterable[SemanticVariable[Any]], objective: Objective | None, timeout_s: float | None
) -> tuple[Any, ...]:
    """All values in order; the first error ends the wait for all."""
    tasks = [asyncio.create_task(variable.get(objective, timeout_s)) for variable in variables]
    try:
        return tuple(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
