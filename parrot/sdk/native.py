"""`@native_function`: a Python function over variables, run in the client's process."""

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, get_type_hints, overload

import anyio.to_thread
from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from parrot.errors import CallError, SemanticFunctionError, UsageError
from parrot.sdk.current import Caller, current_session
from parrot.sdk.variable import SemanticVariable, gather
from parrot.types.ids import NAME_PATTERN

R = TypeVar("R")


class NativeFunction(Generic[R]):
    """A Python function whose arguments may be variables and whose result is one.

    It runs here, never in the service: a plain function in a thread, a coroutine function on the session's
    event loop, as soon as every variable among its arguments (also inside lists, tuples and dicts) has its
    value. A result that is declared as anything but `str` becomes JSON text for the calls that consume it,
    and comes back from `get` as declared.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.name = str(getattr(function, "__name__", ""))
        if not NAME_PATTERN.match(self.name):
            raise SemanticFunctionError(f"{self.name!r} cannot name a native function: define it with `def`")
        self._function = function
        self._signature = inspect.signature(function)
        self._adapter = _result_adapter(self.name, function)

    def __call__(self, *args: Any, **kwargs: Any) -> SemanticVariable[R]:
        """Call it in the current session; returns the result's variable at once.

        Raises:
            UsageError: outside any session, or in one that is closed.
            TypeError: wrong arguments.
        """
        variable: SemanticVariable[R] = current_session(self.name).call(self, *args, **kwargs)
        return variable

    def using(self, session: Caller) -> "Callable[..., SemanticVariable[R]]":
        """The same function, bound to a session instead of the current one."""
        return functools.partial(session.call, self)

    def bind(self, args: Iterable[object], kwargs: Mapping[str, object]) -> inspect.BoundArguments:
        """The arguments of one call.

        Raises:
            TypeError: missing, unknown or repeated arguments.
        """
        try:
            return self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}(): {error}") from None

    async def run(self, arguments: inspect.BoundArguments) -> str:
        """Run it with arguments that hold no variables any more; the result as text.

        Raises:
            CallError: `native_failed`: it raised, or returned something else than it declares.
        """
        try:
            if inspect.iscoroutinefunction(self._function):
                result = await self._function(*arguments.args, **arguments.kwargs)
            else:
                call = functools.partial(self._function, *arguments.args, **arguments.kwargs)
                result = await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
            return self._to_text(result)
        except Exception as error:
            raise CallError(
                f"{self.name}() raised {type(error).__name__}: {error}",
                code="native_failed",
                data={"function": self.name, "exception": type(error).__name__},
            ) from error

    @property
    def parse(self) -> Callable[[str], object] | None:
        """From the result's text back to the result; None when it is text."""
        return None if self._adapter is None else self._adapter.validate_json

    def _to_text(self, result: object) -> str:
        if self._adapter is not None:
            text = self._adapter.dump_json(self._adapter.validate_python(result)).decode()
            # JSON has no NaN, for one: what would not come back is the function's failure, not its reader's.
            self._adapter.validate_json(text)
            return text
        if not isinstance(result, str):
            raise TypeError(
                f"the result is a {type(result).__name__}; declare it as `-> {type(result).__name__}`"
            )
        return result

    def __repr__(self) -> str:
        return f"<native function {self.name}{self._signature}>"


@overload
def native_function(function: Callable[..., Coroutine[Any, Any, R]], /) -> NativeFunction[R]: ...
@overload
def native_function(function: Callable[..., R], /) -> NativeFunction[R]: ...
def native_function(function: Callable[..., Any], /) -> NativeFunction[Any]:
    """Declare a native function; see `NativeFunction`.

    An exception that it raises fails its variable with `CallError` (`native_failed`); calls that consume the
    variable are cancelled, and their variables fail with `upstream_failed` for this program.

    Raises:
        SemanticFunctionError: its name or its result type cannot be used.
    """
    return NativeFunction(function)


def variables_in(value: object) -> Iterator[SemanticVariable[Any]]:
    """The variables inside an argument: itself, or in lists, tuples and dicts at any depth."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, SemanticVariable):
            yield current
        elif isinstance(current, (list, tuple)):
            waiting.extend(reversed(current))
        elif isinstance(current, dict):
            waiting.extend(reversed(current.values()))


async def resolve(arguments: inspect.BoundArguments) -> inspect.BoundArguments:
    """The arguments with each variable's value in its place; waits for all of them."""
    variables = list(dict.fromkeys(variables_in(list(arguments.arguments.values()))))
    values = dict(zip(variables, await gather(variables, None, None), strict=True))

    def fill(value: object) -> Any:
        if isinstance(value, SemanticVariable):
            return values[value]
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [fill(inner) for inner in value]
        if isinstance(value, tuple):
            filled = [fill(inner) for inner in value]
            return type(value)(*filled) if hasattr(value, "_fields") else tuple(filled)
        return value

    filled = {name: fill(value) for name, value in arguments.arguments.items()}
    return inspect.BoundArguments(arguments.signature, filled)


def _result_adapter(name: str, function: Callable[..., Any]) -> TypeAdapter[Any] | None:
    try:
        declared = get_type_hints(function).get("return", str)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise SemanticFunctionError(
            f"{name}: an annotation cannot be understood ({error}); what it names must stand at module level"
        ) from None
    if declared is str or declared is type(None):
        return None
    try:
        return TypeAdapter(declared)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise SemanticFunctionError(f"{name}: its result cannot become text: {error}") from None


def check_owner(function: str, variable: SemanticVariable[Any], session: Any) -> None:
    """Refuse a variable of another session."""
    if not variable.belongs_to(session):
        raise UsageError(
            f"{function}(): variable {variable.name} belongs to another session; "
            "pass its value (await it there)"
        )
