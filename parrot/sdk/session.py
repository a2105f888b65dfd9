"""A session: one run of one application, as a program holds it."""

import asyncio
import inspect
import itertools
import json
import logging
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from pydantic import ValidationError

from parrot.errors import (
    CODES,
    CallError,
    InvalidError,
    ParrotError,
    UnreachableError,
    UsageError,
    error_from_code,
)
from parrot.sdk.client import Client, StreamEvent
from parrot.sdk.function import SemanticFunction
from parrot.sdk.graph import Graph, NativeCall, State, build_graph
from parrot.sdk.native import NativeFunction, check_owner, resolve, variables_in
from parrot.sdk.once import Once
from parrot.sdk.reading import ValueReader
from parrot.sdk.registered import function_spec, registered_function
from parrot.sdk.submission import Group, OutgoingCall, OutgoingValue, Submitter
from parrot.sdk.variable import (
    SemanticVariable,
    check_objective,
    check_timeout,
    gather,
    upstream,
    upstream_failure,
)
from parrot.types.ids import ID_PATTERN, NAME_PATTERN
from parrot.types.objective import Objective
from parrot.wire.requests import CancelRequest, SessionCreate, SetVariable
from parrot.wire.runs import GivenVariable

R = TypeVar("R")

_NAME_PART_CHARS = 24

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something that happened in a session."""

    name: str
    data: Mapping[str, Any]


@dataclass(slots=True)
class _Native:
    function: str
    output: SemanticVariable[Any]
    task: asyncio.Task[None] | None = None
    state: State = "waiting"
    """Until it has ended."""


_BATCH: ContextVar[tuple["Session", Group] | None] = ContextVar("parrot_batch", default=None)


class Session:
    """One run of an application. Made by `connect`; ends with its `async with` block.

    Calls made within one tick of the event loop go to the service in one request; `batch` groups more. The
    first one opens the session, and the answer to each goes on to bring values. So the first value costs one
    round trip. Requests go in the order of the calls.
    """

    def __init__(self, client: Client, opening: SessionCreate, *, model: str | None = None) -> None:
        self._client = client
        self._model = model
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._numbers = itertools.count(1)
        self._tag = secrets.token_hex(2)
        self._inputs: dict[str, SemanticVariable[str]] = {}
        self._natives: list[_Native] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._submitter = Submitter(client, opening, self._cancel_consumers)
        self._reader = ValueReader(client, self._submitter, opening.objective)
        self.name = opening.name
        """The name given to `connect`."""

    @property
    def id(self) -> str:
        """Its identifier in the service.

        Raises:
            UsageError: the service does not have the session yet; `open` opens it.
        """
        if self._submitter.session_id is None:
            raise UsageError("the session is opened with its first call; `open` opens it before")
        return self._submitter.session_id

    async def open(self) -> str:
        """Open the session in the service now, and not with its first call; gives its identifier.

        Raises:
            UnreachableError: no service answers there.
            AuthenticationError: no key, or not a valid one.
        """
        self._check_usable()
        return await self._submitter.opened()

    def linger(self, seconds: float) -> None:
        """Hold calls back so long for others to join them, unless somebody waits for one. For programs whose
        calls cannot come in one tick of the event loop.
        """
        self._submitter.linger_s = seconds

    @overload
    def call(self, function: SemanticFunction[R], /, *args: Any, **kwargs: Any) -> R: ...
    @overload
    def call(self, function: NativeFunction[R], /, *args: Any, **kwargs: Any) -> SemanticVariable[R]: ...
    def call(
        self, function: SemanticFunction[Any] | NativeFunction[Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Call a semantic or native function in this session; returns its variables at once.

        Raises:
            TypeError: wrong arguments: not a `str` or a variable, missing, unknown.
            InvalidError: a text that cannot be sent, such as one with a lone surrogate.
            UsageError: the session is closed, or this is another process, thread or event loop.
        """
        self._check_usable()
        if isinstance(function, SemanticFunction):
            return self._call_semantic(function, args, kwargs)
        if isinstance(function, NativeFunction):
            return self._call_native(function, args, kwargs)
        raise TypeError(f"call takes a semantic or native function, not {type(function).__name__}")

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[None]:
        """Group the calls made inside into one request, sent at the end, all or nothing.

        Returns when the service has taken them. When the block raises, none is sent. A batch inside a batch
        joins it.

        Raises:
            ParrotError: what the service says against the batch.
        """
        if self.in_batch():
            yield
            return
        group = Group()
        try:
            with self.collect(group):
                yield
        except BaseException:
            self.abandon(group)
            raise
        await self.send(group)

    @contextmanager
    def collect(self, group: Group) -> Iterator[None]:
        """The calls made inside go into `group`, which is yet to be sent or abandoned."""
        token = _BATCH.set((self, group))
        try:
            yield
        finally:
            _BATCH.reset(token)

    def in_batch(self) -> bool:
        """Whether the caller is in the block of an open batch."""
        return self._open_group() is not None

    def abandon(self, group: Group) -> None:
        """Give up what `collect` gathered."""
        group.closed = True
        group.fail(UsageError("the batch was given up, for its block raised; nothing of it was submitted"))
        self._spawn(self._cancel_after_flush(group.outputs()))

    async def send(self, group: Group) -> None:
        """Submit what `collect` gathered."""
        self._check_usable()
        await self._submitter.send(group)

    def variable(self, name: str, value: str | None = None) -> SemanticVariable[str]:
        """An input variable: `value` now, or later by `set`; calls may consume it before it has one.

        Asking for the same name again gives the same variable.

        Raises:
            UsageError: the name is not an identifier of at most 64 characters, or the variable has another
                value.
            TypeError: the value is not a `str`.
            InvalidError: a text that cannot be sent, such as one with a lone surrogate.
        """
        self._check_usable()
        if not NAME_PATTERN.match(name) or ID_PATTERN.match(name):
            raise UsageError(f"{name!r} is not an identifier of at most 64 characters", param="name")
        if value is not None and not isinstance(value, str):
            raise TypeError(f"variable {name}: a value is a str, not {type(value).__name__}")
        known = self._inputs.get(name)
        if known is not None and value is not None:
            raise UsageError(f"variable {name} exists already; give it a value with `set`")
        variable = known or SemanticVariable[str](self, name, local=Once(), settable=True)
        if value is not None:
            self._give(variable, value)
        self._inputs[name] = variable
        return variable

    async def function(self, reference: str) -> SemanticFunction[Any]:
        """A function that is registered with the service: `name` for its latest version, `name@3` for that
        one. Each of its outputs is a variable of text; several come as a named tuple.

        Raises:
            NotFoundError: there is none.
        """
        self._check_usable()
        return registered_function(await self._client.function(reference))

    async def register(
        self, function: SemanticFunction[Any], *, description: str | None = None, warm: bool = False
    ) -> SemanticFunction[Any]:
        """Register a function of this program with the service, for every program of the same tenant.

        Args:
            function: The function. Registering the same again makes no new version.
            description: For people who look for it.
            warm: Have the constant beginning of its prompt filled on every engine that comes up.

        Returns:
            The function as registered: its calls carry its name and version in place of the template.

        Raises:
            UsageError: it has an input that takes a list.
            ParrotError: what the service says against it.
        """
        self._check_usable()
        spec = function_spec(function, description=description, warm=warm)
        return registered_function(await self._client.register_function(function.plan.name, spec))

    async def gather(
        self,
        *variables: SemanticVariable[Any],
        objective: Objective | None = None,
        timeout_s: float | None = None,
    ) -> tuple[Any, ...]:
        """The values of all, in order; raises the first error, as `get` does."""
        check_objective(objective)
        check_timeout(timeout_s)
        return await gather(variables, objective, timeout_s)

    async def cancel(self, variable: SemanticVariable[Any], *more: SemanticVariable[Any]) -> tuple[str, ...]:
        """Cancel the calls that produce these variables, and all that depends on them.

        Returns the identifiers of the calls that were cancelled; one that has ended is not among them.
        """
        self._check_usable()
        variables = (variable, *more)
        for each in variables:
            check_owner("cancel", each, self)
        for native in self._natives:
            if native.output in variables and native.task is not None:
                native.task.cancel()
                error = CallError(f"{native.output.name} was cancelled", code="cancelled")
                await self._fail_local(native.output, error)
        remote = [each for each in variables if each.local is None]
        if not remote:
            return ()
        await self._submitter.flush()
        if self._submitter.session_id is None:
            return ()
        request = CancelRequest(variables=tuple(each.id or each.name for each in remote))
        return (await self._client.cancel(self.id, request)).cancelled

    async def graph(self) -> Graph:
        """The application graph as it is now, native functions of this program included."""
        self._check_usable()
        await self._submitter.flush()
        natives = [
            NativeCall(
                name=native.function,
                state=_native_state(native),
                output=native.output.name,
                inputs=tuple(variable.name for variable in native.output.inputs),
            )
            for native in self._natives
        ]
        return build_graph(await self._client.graph(await self._submitter.opened()), natives)

    async def events(self) -> AsyncGenerator[SessionEvent, None]:
        """Everything that happens in the session from its beginning, as it happens."""
        self._check_usable()
        session_id = await self._submitter.opened()
        async with aclosing(self._client.session_events(session_id)) as events:
            async for event in events:
                yield SessionEvent(event.name, _json_object(event, self._client.address))

    async def close(self, *, keep: bool = False) -> None:
        """End the session: stop what runs and free everything, unless `keep`. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        unfinished = [native.output for native in self._natives if _fail_unfinished(native)]
        if keep:
            await self._cancel_after_flush(unfinished)
        await self._submitter.close()
        session_id = self._submitter.session_id
        if keep or session_id is None:
            return
        try:
            await self._client.delete_session(session_id)
        except ParrotError as error:
            _log.warning("session %s could not be deleted and will expire: %s", session_id, error)

    # What variables ask of their session (`VariableAccess`).

    async def read_text(
        self, variable: SemanticVariable[Any], objective: Objective | None, timeout_s: float | None
    ) -> str:
        """Wait for a variable's text."""
        self._check_usable(variable)
        return await self._reader.read(variable, objective, timeout_s)

    async def stream_text(
        self, variable: SemanticVariable[Any], objective: Objective | None
    ) -> AsyncGenerator[str, None]:
        """A variable's text in pieces."""
        self._check_usable(variable)
        async with aclosing(self._reader.stream(variable, objective)) as pieces:
            async for piece in pieces:
                yield piece

    async def write_text(self, variable: SemanticVariable[Any], text: str) -> None:
        """Set an input variable."""
        self._check_usable(variable)
        if not variable.settable or variable.local is None:
            raise UsageError(f"{variable.name} is produced by a call; only session.variable(…) can be set")
        if variable.accepted is not None:
            await variable.accepted.wait()
        await self._publish(variable, text)
        variable.local.set(text)

    # Calls

    def _call_semantic(
        self, function: SemanticFunction[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        plan = function.plan
        number = next(self._numbers)
        parameters: dict[str, dict[str, str]] = {}
        inputs: list[SemanticVariable[Any]] = []
        prompt, arguments = plan.expand(plan.bind(args, kwargs))
        for placeholder, value in arguments.items():
            if isinstance(value, str):
                parameters[placeholder] = {"value": value}
            elif isinstance(value, SemanticVariable):
                check_owner(plan.name, value, self)
                parameters[placeholder] = {"variable": value.name}
                inputs.append(value)
            else:
                raise TypeError(
                    f"{plan.name}(): {placeholder} takes a str or a semantic variable, "
                    f"not {type(value).__name__}"
                )
        accepted: Once[None] = Once()
        outputs = {
            placeholder: SemanticVariable[Any](
                self,
                self._fresh_name(plan.name, placeholder, number),
                parse=output.parse,
                inputs=inputs,
                accepted=accepted,
            )
            for placeholder, output in plan.outputs.items()
        }
        name = f"{plan.name[:48]}_{number}"
        try:
            spec = plan.call_spec(
                name=name,
                model=self._model,
                prompt=prompt,
                inputs=parameters,
                output_names={placeholder: variable.name for placeholder, variable in outputs.items()},
            )
        except ValidationError as error:
            raise invalid(error, plan.name) from None
        body = spec.model_dump_json(by_alias=True, exclude_defaults=True).encode()
        self._enqueue(
            OutgoingCall(name=name, body=body, inputs=tuple(inputs), outputs=outputs, accepted=accepted)
        )
        return plan.result(*outputs.values()) if plan.result else next(iter(outputs.values()))

    def _give(self, variable: SemanticVariable[str], value: str) -> None:
        """A new input variable's value, which goes with the calls."""
        try:
            given = GivenVariable(variable=variable.name, value=value)
        except ValidationError as error:
            raise invalid(error, variable.name) from None
        accepted: Once[None] = Once()
        variable.accepted = accepted
        if variable.local is not None:
            variable.local.set(value)
        body = given.model_dump_json().encode()
        self._enqueue(OutgoingValue(variable=variable, body=body, accepted=accepted))

    def _enqueue(self, item: OutgoingCall | OutgoingValue) -> None:
        group = self._open_group()
        if group is None:
            self._submitter.add(item)
        else:
            group.add(item)

    def _open_group(self) -> Group | None:
        """The batch whose block the caller is in, if any."""
        session, group = _BATCH.get() or (None, None)
        return group if session is self and group is not None and not group.closed else None

    def _call_native(
        self, function: NativeFunction[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> SemanticVariable[Any]:
        arguments = function.bind(args, kwargs)
        inputs = tuple(dict.fromkeys(variables_in(list(arguments.arguments.values()))))
        for variable in inputs:
            check_owner(function.name, variable, self)
        number = next(self._numbers)
        name = self._fresh_name(function.name, "result", number)
        output = SemanticVariable[Any](self, name, parse=function.parse, inputs=inputs, local=Once())
        native = _Native(f"{function.name[:48]}_{number}", output)
        self._natives.append(native)
        native.task = self._spawn(self._run_native(function, arguments, native))
        return output

    async def _run_native(
        self, function: NativeFunction[Any], arguments: inspect.BoundArguments, native: _Native
    ) -> None:
        output = native.output
        try:
            resolved = await resolve(arguments)
        except ParrotError as error:
            await self._fail_local(output, upstream_failure(output) or _upstream(output, error))
            return
        native.state = "running"
        try:
            await self._provide(output, await function.run(resolved))
        except CallError as error:
            await self._fail_local(output, error)

    async def _provide(self, variable: SemanticVariable[Any], text: str) -> None:
        """Give a variable of this program its text, here and in the service; or its failure."""
        try:
            await self._publish(variable, text)
        except ParrotError as error:
            await self._fail_local(variable, error)
        else:
            if variable.local is not None:
                variable.local.set(text)

    async def _publish(self, variable: SemanticVariable[Any], text: str) -> None:
        try:
            request = SetVariable(value=text)
        except ValidationError as error:
            raise invalid(error, variable.name) from None
        session_id = await self._submitter.opened()
        variable.id = (await self._client.set_variable(session_id, variable.name, request)).variable_id

    async def _fail_local(self, variable: SemanticVariable[Any], error: ParrotError) -> None:
        """Fail a variable of this program, and cancel the calls that wait for it in the service."""
        if variable.local is not None:
            variable.local.fail(error)
        await self._cancel_after_flush((variable,))

    async def _cancel_after_flush(self, variables: Sequence[SemanticVariable[Any]]) -> None:
        await self._submitter.flush()
        if consumed := [variable for variable in variables if variable.consumed]:
            await self._cancel_consumers(consumed)

    async def _cancel_consumers(self, variables: Sequence[SemanticVariable[Any]]) -> None:
        if self._submitter.session_id is None:
            return
        try:
            request = CancelRequest(variables=tuple(variable.name for variable in variables))
            await self._client.cancel(self.id, request)
        except ParrotError as error:
            _log.warning("calls that wait for %s could not be cancelled: %s", variables[0].name, error)

    # Order in the house

    def _fresh_name(self, function: str, part: str, number: int) -> str:
        return f"{function[:_NAME_PART_CHARS]}_{part[:_NAME_PART_CHARS]}_{number}_{self._tag}"

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside the program, outside any open batch, until it ends or the session does."""
        context = copy_context()
        context.run(_BATCH.set, None)
        task = self._loop.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _check_usable(self, variable: SemanticVariable[Any] | None = None) -> None:
        if self._pid != os.getpid():
            raise UsageError("the session belongs to the process that opened it; connect again after a fork")
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                "the session belongs to an event loop and this is another thread; use connect_sync there"
            ) from None
        if running is not self._loop:
            raise UsageError("the session belongs to another event loop; connect inside the one that uses it")
        if self._closed:
            raise UsageError("the session is closed")
        if variable is not None and self._waits_for_own_batch(variable):
            raise UsageError(f"{variable.name} waits for a batch that is submitted when its block ends")

    def _waits_for_own_batch(self, variable: SemanticVariable[Any]) -> bool:
        group = self._open_group()
        if group is None:
            return False
        unsent = {id(call.accepted) for call in group.calls}
        return any(id(each.accepted) in unsent for each in (variable, *upstream(variable)))


def invalid(error: ValidationError, where: str) -> ParrotError:
    """The error of the tree for a value that the wire schema refuses."""
    first = error.errors(include_url=False)[0]
    place = first["loc"]
    code = str(first.get("ctx", {}).get("error", ""))
    if place and code in CODES:
        param = str(place[1] if place[0] == "parameters" and len(place) > 1 else place[0])
        return error_from_code(code, f"{where}: {param} is {CODES[code].meaning}", param=param)
    param = ".".join(str(part) for part in place)
    return InvalidError(f"{where}: {param}: {first['msg']}", param=param)


def _upstream(output: SemanticVariable[Any], error: ParrotError) -> CallError:
    return CallError(
        f"{output.name} needs a value that failed: {error.message}",
        code="upstream_failed",
        data={"message": error.message, "root": error.code} | error.data,
    )


def _native_state(native: _Native) -> State:
    local = native.output.local
    if local is None or not local.done:
        return native.state
    if local.error is None:
        return "done"
    return "cancelled" if local.error.code == "cancelled" else "failed"


def _fail_unfinished(native: _Native) -> bool:
    """Fail a native function that the session's end has stopped; whether there was anything to fail."""
    local = native.output.local
    if local is None or local.done:
        return False
    local.fail(UsageError("the session was closed before the function had ended"))
    return True


def _json_object(event: StreamEvent, address: str) -> Mapping[str, Any]:
    try:
        data = json.loads(event.data)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise UnreachableError(f"{address} sent a {event.name} event that cannot be read", code="bad_answer")
    return data
