"""Calls on their way to the service: grouped, in order, each group in one request."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parrot.errors import (
    AuthenticationError,
    CallError,
    GoneError,
    ParrotError,
    RequestError,
    UnreachableError,
    UsageError,
)
from parrot.sdk.client import Client
from parrot.sdk.following import Followed, Listeners
from parrot.sdk.once import Once
from parrot.sdk.variable import SemanticVariable, upstream_failure
from parrot.wire.requests import SessionCreate
from parrot.wire.runs import FollowSpec, RunAccepted

MAX_GROUP_CALLS = 1000
"""Calls that are grouped by themselves; an explicit batch may have more."""
MAX_GROUP_BYTES = 4 << 20
MAX_LISTENERS = 16
"""While so many answers are being read on, results that nobody waits for yet are not followed."""
_GATHERING_TICKS = 2
"""Those who wait for results in tasks of their own have begun to after so many turns of the event loop."""
_LEAVE_S = 5.0
"""An opening that is under way when the session is closed is waited for so long: what it opens is to be
deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingCall:
    """A call that waits to be sent."""

    name: str
    body: bytes
    """Its JSON text."""
    inputs: tuple[SemanticVariable[Any], ...]
    outputs: Mapping[str, SemanticVariable[Any]]
    """By placeholder."""
    accepted: Once[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingValue:
    """An input variable with its value, which goes with the calls."""

    variable: SemanticVariable[str]
    body: bytes
    """Its JSON text."""
    accepted: Once[None]


@dataclass(slots=True, kw_only=True)
class Group:
    """Calls that go in one request, and values that go with them."""

    calls: list[OutgoingCall] = field(default_factory=list)
    values: list[OutgoingValue] = field(default_factory=list)
    opens: bool = False
    """The session is to be opened even without any of them."""
    closed: bool = False
    """Takes no more calls: it is an explicit batch."""
    num_bytes: int = 0
    settled: Once[None] = field(default_factory=Once)
    """When the service has answered."""

    def add(self, item: OutgoingCall | OutgoingValue) -> None:
        """Put one more in."""
        if isinstance(item, OutgoingCall):
            self.calls.append(item)
        else:
            self.values.append(item)
        self.num_bytes += len(item.body)

    def takes(self, item: OutgoingCall | OutgoingValue) -> bool:
        """Whether it may be grouped into it."""
        num_items = len(self.calls) + len(self.values)
        fits = num_items < MAX_GROUP_CALLS and self.num_bytes + len(item.body) <= MAX_GROUP_BYTES
        return fits and not self.closed

    def outputs(self) -> list[SemanticVariable[Any]]:
        """The variables that its calls produce."""
        return [variable for call in self.calls for variable in call.outputs.values()]

    def fail(self, error: ParrotError) -> None:
        """None of it will ever be with the service."""
        items: list[OutgoingCall | OutgoingValue] = [*self.calls, *self.values]
        for item in items:
            item.accepted.fail(error)
        self.settled.fail(error)


OnLost = Callable[[Sequence[SemanticVariable[Any]]], Awaitable[None]]


class Submitter:
    """Sends groups one after the other; what is called while one is on its way forms the next. A group that
    the service refuses is sent again in halves, unless it is an explicit batch.

    The first one opens the session. The answer to each goes on to tell the values of what somebody waits for
    already, and of the outputs that none of its calls consumes.
    """

    def __init__(self, client: Client, session: SessionCreate, on_lost: OnLost) -> None:
        """`on_lost` is told of variables without a future that calls in the service wait for."""
        self._client = client
        self._session = session
        self._on_lost = on_lost
        self._listeners = Listeners()
        self._waiting: deque[Group] = deque()
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._sending: Group | None = None
        self._opening = Once[None]()
        """Done while no request that opens the session is under way."""
        self._opening.set(None)
        self.session_id: str | None = None
        """None until the service has taken the first group."""
        self.linger_s = 0.0
        """Calls are held back so long for others to join them, unless somebody waits for one."""
        self._task = asyncio.create_task(self._run())

    def add(self, item: OutgoingCall | OutgoingValue) -> None:
        """Send it, together with the others of this tick of the event loop."""
        if not self._waiting or not self._waiting[-1].takes(item):
            self._enqueue(Group())
        self._waiting[-1].add(item)

    async def send(self, group: Group) -> None:
        """Send an explicit batch; returns when the service has taken it, raises what it says otherwise."""
        if group.calls or group.values or group.opens:
            group.closed = True
            self._enqueue(group)
            self.hurry()
            await group.settled.wait()

    async def opened(self) -> str:
        """The session's identifier; the session is opened if it was not."""
        while self.session_id is None:
            await self.send(Group(opens=True))
        return self.session_id

    def hurry(self) -> None:
        """Somebody waits: hold back nothing of what there is."""
        if not self._idle.is_set():
            self._hurry.set()

    async def flush(self) -> None:
        """Wait until everything given so far has been answered, or refused."""
        self.hurry()
        await self._idle.wait()

    async def close(self) -> None:
        """Stop sending and reading; what was not taken fails."""
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self._opening.wait()
        except TimeoutError:
            pass
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._listeners.close()

    def _enqueue(self, group: Group) -> None:
        if self._task.done():
            raise UsageError("the session is closed")
        self._waiting.append(group)
        self._wake.set()
        self._idle.clear()

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._gather()
                while self._waiting:
                    self._sending = self._waiting.popleft()
                    await self._send(self._sending)
                    self._sending = None
                self._hurry.clear()
                self._idle.set()
        except Exception as error:
            reason = UnreachableError(f"calls could not be sent: {type(error).__name__}: {error}")
            self._end(reason)
            raise
        finally:
            self._end(UsageError("the session was closed before the call was submitted"))

    def _end(self, reason: ParrotError) -> None:
        """Nothing more is sent; what was not taken fails."""
        for group in (self._sending, *self._waiting):
            if group is not None:
                group.fail(reason)
        self._idle.set()

    async def _gather(self) -> None:
        """Let others join the first that came."""
        if self.linger_s and not self._hurry.is_set():
            try:
                async with asyncio.timeout(self.linger_s):
                    await self._hurry.wait()
            except TimeoutError:
                pass
        for _ in range(_GATHERING_TICKS):
            await asyncio.sleep(0)
        self._hurry.clear()

    async def _send(self, group: Group) -> None:
        calls = [call for call in group.calls if not _fail_if_upstream_failed(call)]
        if calls or group.values or (group.opens and self.session_id is None):
            try:
                await self._post(calls, group.values)
            except ParrotError as error:
                parts = [] if group.closed else _parts(calls, group.values, error)
                if not parts:
                    group.fail(error)
                for part in parts:
                    await self._send(part)
        group.settled.set(None)
        if lost := [output for output in group.outputs() if output.failure is not None and output.consumed]:
            await self._on_lost(lost)

    async def _post(self, calls: Sequence[OutgoingCall], values: Sequence[OutgoingValue]) -> None:
        followed = self._to_follow(calls)
        parts = {
            b'"session"': b""
            if self.session_id
            else self._session.model_dump_json(exclude_none=True).encode(),
            b'"variables"': _list(value.body for value in values),
            b'"calls"': _list(call.body for call in calls),
            b'"follow"': _list(_follow_spec(name, one) for name, one in followed.items()),
        }
        body = b"{%b}" % b",".join(name + b":" + text for name, text in parts.items() if text)
        if self.session_id is None:
            self._opening = Once()
        try:
            answer, events = await self._client.run(self.session_id, body)
            self.session_id = answer.session.session_id
        finally:
            self._opening.set(None)
        _settle(calls, values, answer)
        self._listeners.start(events, _by_id(calls, followed))

    def _to_follow(self, calls: Sequence[OutgoingCall]) -> dict[str, Followed]:
        """The variables whose values are to come with the answer, by name."""
        consumed = {id(variable) for call in calls for variable in call.inputs}
        crowded = len(self._listeners) >= MAX_LISTENERS
        followed: dict[str, Followed] = {}
        for call in calls:
            for variable in call.outputs.values():
                wanted = variable.wanted
                if wanted is not None:
                    followed[variable.name] = Followed(wanted.objective, deltas=wanted.deltas)
                elif not crowded and id(variable) not in consumed:
                    followed[variable.name] = Followed(None, deltas=False)
        return followed


def _parts(calls: Sequence[OutgoingCall], values: Sequence[OutgoingValue], error: ParrotError) -> list[Group]:
    """What to send in place of a group that the service refused: a call that only happens to be in it is not
    to fail for another's fault. Nothing when the fault is everybody's.
    """
    of_one = isinstance(error, RequestError | CallError)
    if not of_one or isinstance(error, AuthenticationError | GoneError) or values or len(calls) < 2:
        return []
    middle = len(calls) // 2
    return [Group(calls=list(calls[:middle])), Group(calls=list(calls[middle:]))]


def _list(bodies: Iterable[bytes]) -> bytes:
    text = b",".join(bodies)
    return b"[%b]" % text if text else b""


def _follow_spec(name: str, followed: Followed) -> bytes:
    spec = FollowSpec(variable=name, objective=followed.objective, deltas=followed.deltas)
    return spec.model_dump_json(exclude_defaults=True).encode()


def _by_id(calls: Sequence[OutgoingCall], followed: Mapping[str, Followed]) -> dict[str, Followed]:
    """What is followed, by identifier, and known to its variables. Those that the answer does not name are
    to be asked for.
    """
    found: dict[str, Followed] = {}
    for call in calls:
        for variable in call.outputs.values():
            if variable.name in followed and variable.id is not None:
                variable.followed = found[variable.id] = followed[variable.name]
    return found


def _fail_if_upstream_failed(call: OutgoingCall) -> bool:
    for variable in call.inputs:
        if variable.failure is not None:
            error = upstream_failure(next(iter(call.outputs.values())))
            call.accepted.fail(error or variable.failure)
            return True
    return False


def _settle(calls: Sequence[OutgoingCall], values: Sequence[OutgoingValue], answer: RunAccepted) -> None:
    given = {view.name: view.variable_id for view in answer.variables}
    for value in values:
        value.variable.id = given.get(value.variable.name)
        value.accepted.set(None)
    accepted = {call.name: call for call in answer.calls}
    for call in calls:
        for variable in call.inputs:
            variable.consumed = True
        if (view := accepted.get(call.name)) is not None:
            for placeholder, output in view.outputs.items():
                if placeholder in call.outputs:
                    call.outputs[placeholder].id = output.variable_id
        call.accepted.set(None)
