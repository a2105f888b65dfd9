"""Server-sent events over HTTP (WHATWG HTML, section 9.2), with heartbeats, a time limit, and a bound on what
a slow reader can make us keep.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import msgspec
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from parrot.core.service import StreamItem
from parrot.errors import AuthenticationError, ParrotError, fault_trace
from parrot.ports.clock import Clock
from parrot.server.auth import Authenticator, Caller
from parrot.server.disconnects import Watch, cancel_all, disconnected
from parrot.server.errors import internal_error
from parrot.server.logs import log
from parrot.server.parameters import REQUEST_ID, caller_of
from parrot.wire.errors import to_body

Item = TypeVar("Item")
Framed_contra = TypeVar("Framed_contra", contravariant=True)

FIRST_EVENT_GRACE_S = 1.0
"""An error that comes within this, before any event, is an ordinary HTTP error; then the answer begins."""

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """How streams are kept alive and ended."""

    heartbeat_s: float
    """A comment is sent every so often."""
    max_stream_s: float
    """A stream ends after this; the client resumes."""
    closing: asyncio.Event
    """Set when the service shuts down: streams end."""
    clock: Clock
    """Tells when a stream has lasted long enough."""
    authenticator: Authenticator
    """Tells, at each heartbeat, whether the key that the stream was opened with is valid still."""


class Framing(Protocol[Framed_contra]):
    """How items, and the error that ends a stream, are written as server-sent events."""

    def item(self, item: Framed_contra) -> bytes:
        """One item."""
        ...

    def error(self, error: ParrotError, request_id: str) -> bytes:
        """What went wrong."""
        ...


class NamedEvents:
    """Parrot's own streams: events with names, and ids to resume from."""

    def item(self, item: StreamItem) -> bytes:
        """One item."""
        text = msgspec.json.encode(item.data).decode()
        return format_sse_event(event=item.event, data_str=text, id=item.event_id)

    def error(self, error: ParrotError, request_id: str) -> bytes:
        """The envelope's inside."""
        body = to_body(error, request_id=request_id)
        return format_sse_event(event="error", data_str=body.model_dump_json())


class EventStream(Response, Generic[Item]):
    """An answer that sends the items of a generator as they come.

    The generator is closed as soon as the client leaves. While the client does not read, nothing is taken
    from the generator; when it has not read for a whole heartbeat, the connection is dropped.
    """

    media_type = "text/event-stream"

    def __init__(
        self, items: AsyncGenerator[Item, None], config: StreamConfig, framing: Framing[Item]
    ) -> None:
        super().__init__()
        self._items = items
        self._config = config
        self._framing = framing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; raises what the generator raises if nothing was sent before."""
        writer = _Writer(send, request_id=scope[REQUEST_ID], patience_s=self._config.heartbeat_s)
        caller, began_s = caller_of(scope), self._config.clock.now_s()
        is_over = True
        try:
            async with asyncio.timeout(None) as pumping:
                look = partial(self._supervise, writer, receive, caller, began_s)
                watch = Watch(pumping, look, at_once=self._config.closing.is_set())
                try:
                    await self._pump(writer)
                finally:
                    await watch.stop()
        except TimeoutError:
            if not pumping.expired():
                raise
            is_over = watch.found()
        if is_over:
            await writer.end()

    async def _pump(self, writer: "_Writer") -> None:
        async with aclosing(self._items) as items:
            try:
                async for item in items:
                    await writer.write(self._framing.item(item))
            except ParrotError as error:
                if not writer.started:
                    raise
                await self._write_error(writer, error)
            except Exception as error:
                if not writer.started:
                    raise
                # The headers are out, so only an event can still tell the client.
                log.error("stream failed", request_id=writer.request_id, trace=fault_trace(error))
                await self._write_error(writer, internal_error())

    async def _write_error(self, writer: "_Writer", error: ParrotError) -> None:
        await writer.write(self._framing.error(error, writer.request_id))

    async def _supervise(self, writer: "_Writer", receive: Receive, caller: Caller, began_s: float) -> bool:
        """Return when the stream is to end: whether its end can still be sent."""
        gone = asyncio.ensure_future(disconnected(receive))
        closed = asyncio.ensure_future(self._config.closing.wait())
        try:
            timeout_s = FIRST_EVENT_GRACE_S
            while True:
                done, _ = await asyncio.wait(
                    (gone, closed), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
                if gone in done:
                    return False
                left_s = began_s + self._config.max_stream_s - self._config.clock.now_s()
                if closed in done or left_s <= 0:
                    return not writer.sending
                if not await writer.beat():
                    return False
                if not await self._may_go_on(writer, caller):
                    return not writer.sending
                timeout_s = min(self._config.heartbeat_s, left_s)
        finally:
            await cancel_all(gone, closed)

    async def _may_go_on(self, writer: "_Writer", caller: Caller) -> bool:
        """Whether the key is valid still; when not, that is the last that the client is told."""
        try:
            self._config.authenticator.require_valid(caller)
        except AuthenticationError as error:
            if not writer.sending:
                await self._write_error(writer, error)
            return False
        return True


class _Writer:
    """Puts events on one connection, one at a time."""

    def __init__(self, send: Send, *, request_id: str, patience_s: float) -> None:
        self._patience_s = patience_s
        self.request_id = request_id
        self.started = False
        self._send = send
        self._lock = asyncio.Lock()
        self._num_sent = 0
        self._num_sent_at_beat = -1

    @property
    def sending(self) -> bool:
        """Whether something waits for the client to read."""
        return self._lock.locked()

    async def beat(self) -> bool:
        """Send a comment; False when the client has read nothing since the last one."""
        if self.sending:
            stalled = self._num_sent == self._num_sent_at_beat
            self._num_sent_at_beat = self._num_sent
            return not stalled
        self._num_sent_at_beat = -1
        try:
            async with asyncio.timeout(self._patience_s):
                await self.write(KEEPALIVE_COMMENT)
        except TimeoutError:
            return False
        return True

    async def end(self) -> None:
        await self.write(b"", more=False)

    async def write(self, data: bytes, *, more: bool = True) -> None:
        async with self._lock:
            if not self.started:
                self.started = True
                await self._send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
            self._num_sent += 1
