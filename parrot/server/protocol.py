"""What uvicorn's HTTP/1.1 protocol lacks: a bound on headers and a deadline for them, a bound on connections,
our envelope for requests that cannot be parsed.
"""

import asyncio
import uuid
from collections import Counter
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from parrot.errors import MalformedError, ParrotError, UnavailableError
from parrot.server.config import ServerConfig, is_loopback
from parrot.server.errors import envelope

LINGER_S = 1.0
"""A client that is still sending when it is refused may read the answer for so long."""

MAX_JOINED_BYTES = 64 << 10
"""Writes are not held back beyond this."""

HEADER_SLACK_BYTES = 64 << 10
"""One read may bring the end of the headers with it; the exact bound is the edge's."""

FRAMING_HEADERS = frozenset({b"content-length", b"transfer-encoding"})
REASONS = {400: "Bad Request", 503: "Service Unavailable"}


class _NotServedError(Exception):
    """A request of another version than HTTP/1, or of HTTP/1.1 without a host."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Make a subclass with `bounded_protocol`."""

    header_timeout_s: ClassVar[float]
    max_header_bytes: ClassVar[int]
    """Of a request line and headers together, and of trailers."""
    max_connections: ClassVar[int]
    max_connections_per_address: ClassVar[int]
    per_address: ClassVar[Counter[str]]
    """Connections from each address beyond this machine."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._address: str | None = None
        self._in_headers = self._is_resuming = False
        self._num_header_bytes = 0
        self._is_broken = False
        """What came is not HTTP, or too much of it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or refuse when there are too many connections."""
        super().connection_made(transport)
        self.transport = _ClientTransport(transport, self)
        if len(self.connections) > self.max_connections or not self._enter_address():
            self._refuse(503, UnavailableError("too many connections", data={"retry_after_s": 1}))
        else:
            self._watch_headers()

    def data_received(self, data: bytes) -> None:
        """Take what arrived; a request whose headers are not complete has a deadline."""
        if self.transport.is_closing():  # lingering: what the client still sends is thrown away
            return
        self._unset_keepalive_if_required()
        self._feed(data)
        self._watch_headers()

    def _feed(self, data: bytes) -> None:
        self._num_header_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("this is not a request of HTTP/1.1")
        else:
            if self._in_headers and self._num_header_bytes > self.max_header_bytes + HEADER_SLACK_BYTES:
                self.send_400_response(f"the headers are longer than {self.max_header_bytes:,} bytes")

    def _stay(self, rest: bytes) -> None:
        """Another protocol was offered, which is ignored. The parser thinks that it follows after the
        headers, so another one takes the body, under a head that says how long it is, and what comes then.
        """
        framing = self._framing()
        self.parser = httptools.HttpRequestParser(self)
        if framing:
            self._is_resuming = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
            self._is_resuming = False
        if rest and not self.transport.is_closing():
            self._feed(rest)

    def _framing(self) -> bytes:
        """The header that says how long the request's body is; empty when it has none."""
        lines = (b"%b: %b" % header for header in self.headers if header[0] in FRAMING_HEADERS)
        return next(lines, b"")

    def on_message_begin(self) -> None:
        """A request begins."""
        if not self._is_resuming:
            self._in_headers, self._num_header_bytes = True, 0
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        if not self._is_resuming:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is not looked at."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A request's headers are there."""
        if self._is_resuming:
            return
        self._in_headers = False
        version = self.parser.get_http_version()
        has_host = any(name == b"host" for name, _ in self.headers)
        if not (version == "1.0" or (version == "1.1" and has_host)):
            raise _NotServedError
        if not self.url.startswith(b"/"):
            # In absolute form a target is for a proxy, which this is not: it is no route of ours.
            self.url = b"/" + self.url
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is there, unless it offered another protocol: then its body is still to come."""
        if not (self.parser.should_upgrade() and self._framing()):
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_watching()
        if self._address is not None:
            self.per_address[self._address] -= 1
            if not self.per_address[self._address]:
                del self.per_address[self._address]
            self._address = None
        super().connection_lost(exc)

    def _enter_address(self) -> bool:
        """Count the connection; False when its address has too many."""
        host = self.client[0] if self.client else None
        if host is None or is_loopback(host):
            return True
        self._address = host
        self.per_address[host] += 1
        return self.per_address[host] <= self.max_connections_per_address

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._is_broken = True
        cycle: RequestResponseCycle | None = self.cycle
        answered = cycle is None or cycle.response_complete or not cycle.response_started
        if answered and not self.transport.is_closing():
            self._refuse(400, MalformedError(msg, code="bad_header"))
        self.transport.close()
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()

    @property
    def is_receiving(self) -> bool:
        """Whether the client may still be sending what it began to send."""
        cycle: RequestResponseCycle | None = self.cycle
        return self._is_broken or (cycle is not None and cycle.more_body)

    def _watch_headers(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._stop_watching()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def _stop_watching(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _refuse(self, status: int, error: ParrotError) -> None:
        request_id = f"req_{uuid.uuid4().hex}"
        body = envelope(error, request_id)
        lines = [
            f"HTTP/1.1 {status} {REASONS[status]}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-request-id: {request_id}",
            "connection: close",
            *(["retry-after: 1"] if status == 503 else []),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()


class _ClientTransport(asyncio.Transport):
    """A transport that joins what is written within one turn of the event loop, and lingers when it closes.

    Joined, head and body of an answer leave in one system call instead of two. Lingering lets a client that
    is still sending read its answer: closing a socket with unread data would reset the connection, and the
    answer would be lost (RFC 9112, section 9.6). So the sending side is closed first, what comes is thrown
    away for a while, and then all is closed.
    """

    def __init__(self, transport: asyncio.Transport, protocol: BoundedProtocol) -> None:
        super().__init__()
        self._transport = transport
        self._protocol = protocol
        self._lingering = False
        self._pending = bytearray()
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._pending:
            self._protocol.loop.call_soon(self._flush)
        self._pending += data
        if len(self._pending) > MAX_JOINED_BYTES:  # or a writer that never waits would not be held back
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            data, self._pending = self._pending, bytearray()
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._lingering or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        self._flush()
        if self._protocol.is_receiving and self._transport.can_write_eof():
            self._lingering = True
            self._transport.write_eof()
            self._transport.resume_reading()
            self._protocol.loop.call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()

    def pause_reading(self) -> None:
        if not self.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.is_closing():
            self._transport.resume_reading()


def bounded_protocol(config: ServerConfig) -> type[BoundedProtocol]:
    """The protocol with a configuration's bounds; uvicorn takes a class."""
    bounds = {
        "header_timeout_s": config.header_timeout_s,
        "max_header_bytes": config.max_header_bytes + config.max_uri_bytes,
        "max_connections": config.max_connections,
        "max_connections_per_address": config.max_connections_per_address,
        "per_address": Counter[str](),
    }
    return type("ConfiguredProtocol", (BoundedProtocol,), bounds)
