"""Calls on their way to the service: grouped, in order, each group in one request."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parrot.errors import ParrotError, UsageError
from parrot.sdk.once import Once
from parrot.sdk.variable import SemanticVariable, upstream_failure
from parrot.wire.answers import CallsAccepted

MAX_GROUP_CALLS = 1000
"""Calls that are grouped by themselves; an explicit batch may have more."""
MAX_GROUP_BYTES = 4 << 20


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


@dataclass(slots=True, kw_only=True)
class Group:
    """Calls that go in one request."""

    calls: list[OutgoingCall] = field(default_factory=list)
    closed: bool = False
    """Takes no more calls: it is an explicit batch."""
    num_bytes: int = 0
    settled: Once[None] = field(default_factory=Once)
    """When the service has answered."""

    def add(self, call: OutgoingCall) -> None:
        """Put one more call in."""
        self.calls.append(call)
        self.num_bytes += len(call.body)

    def takes(self, call: OutgoingCall) -> bool:
        """Whether a call may be grouped into it."""
        fits = len(self.calls) < MAX_GROUP_CALLS and self.num_bytes + len(call.body) <= MAX_GROUP_BYTES
        return fits and not self.closed

    def outputs(self) -> list[SemanticVariable[Any]]:
        """The variables that its calls produce."""
        return [variable for call in self.calls for variable in call.outputs.values()]

    def fail(self, error: ParrotError) -> None:
        """None of it will ever be with the service."""
        for call in self.calls:
            call.accepted.fail(error)
        self.settled.fail(error)


Post = Callable[[bytes], Awaitable[CallsAccepted]]
OnLost = Callable[[Sequence[SemanticVariable[Any]]], Awaitable[None]]


class Submitter:
    """Sends groups one after the other; what is called while one is on its way forms the next."""

    def __init__(self, post: Post, on_lost: OnLost) -> None:
        """`on_lost` is told of variables without a future that calls in the service wait for."""
        self._post = post
        self._on_lost = on_lost
        self._waiting: deque[Group] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._sending: Group | None = None
        self._task = asyncio.create_task(self._run())

    def add(self, call: OutgoingCall) -> None:
        """Send a call, together with the others of this tick of the event loop."""
        if not self._waiting or not self._waiting[-1].takes(call):
            self._enqueue(Group())
        self._waiting[-1].add(call)

    async def send(self, group: Group) -> None:
        """Send an explicit batch; returns when the service has taken it, raises what it says otherwise."""
        if group.calls:
            group.closed = True
            self._enqueue(group)
            await group.settled.wait()

    async def flush(self) -> None:
        """Wait until everything given so far has been answered, or refused."""
        await self._idle.wait()

    async def close(self) -> None:
        """Stop sending; what was not taken fails."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

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
                while self._waiting:
                    self._sending = self._waiting.popleft()
                    await self._send(self._sending)
                    self._sending = None
                self._idle.set()
        finally:
            closed = UsageError("the session was closed before the call was submitted")
            for group in (self._sending, *self._waiting):
                if group is not None:
                    group.fail(closed)
            self._idle.set()

    async def _send(self, group: Group) -> None:
        calls = [call for call in group.calls if not _fail_if_upstream_failed(call)]
        if calls:
            body = b'{"calls":[' + b",".join(call.body for call in calls) + b"]}"
            try:
                answer = await self._post(body)
            except ParrotError as error:
                group.fail(error)
            else:
                _settle(calls, answer)
        group.settled.set(None)
        if lost := [output for output in group.outputs() if output.failure is not None and output.consumed]:
            await self._on_lost(lost)


def _fail_if_upstream_failed(call: OutgoingCall) -> bool:
    for variable in call.inputs:
        if variable.failure is not None:
            error = upstream_failure(next(iter(call.outputs.values())))
            call.accepted.fail(error or variable.failure)
            return True
    return False


def _settle(calls: Sequence[OutgoingCall], answer: CallsAccepted) -> None:
    accepted = {call.name: call for call in answer.calls}
    for call in calls:
        for variable in call.inputs:
            variable.consumed = True
        if (view := accepted.get(call.name)) is not None:
            for placeholder, output in view.outputs.items():
                if placeholder in call.outputs:
                    call.outputs[placeholder].id = output.variable_id
        call.accepted.set(None)
