"""The way between client and server: a relay that adds a round trip's time, and sees what waits for what.

A request begins with the first bytes that a client sends on a connection after an answer's. Its depth is one
more than that of the deepest request of which an answer was there by then: so many round trips one after the
other have been made when it is answered.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from parrot.ports.clock import Clock

_CHUNK_BYTES = 1 << 16


@dataclass(slots=True)
class _Connection:
    """One of the client's."""

    depth: int = 0
    """Of its last request."""
    is_answering: bool = True
    """What comes from the client next is a new request."""


class Link:
    """Relays connections to a server on this machine."""

    def __init__(self, target: str, *, clock: Clock) -> None:
        self._target = urlsplit(target)
        self._clock = clock
        self._relays: set[asyncio.Task[None]] = set()
        self.url = ""
        self.rtt_s = 0.0
        """Added to the time between a request and its answer; may be changed while nothing is under way."""
        self.num_requests = 0
        self.num_round_trips = 0
        """The most requests of which each was sent when the one before it was answered."""
        self._answered = 0

    def begin(self) -> None:
        """Count from here on."""
        self.num_requests = self.num_round_trips = self._answered = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Link"]:
        """Relay until the block ends."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            try:
                yield self
            finally:
                # Before the server is waited for, which waits for its connections.
                server.close()
                for relay in self._relays:
                    relay.cancel()
                await asyncio.gather(*self._relays, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.create_task(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection()
        try:
            there_reader, there_writer = await asyncio.open_connection(
                self._target.hostname, self._target.port
            )
        except OSError:
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, there_writer, connection, to_server=True))
                group.create_task(self._carry(there_reader, writer, connection, to_server=False))
        except* ConnectionError:
            # One side has left, and so does the other.
            connection.is_answering = True
        finally:
            for end in (there_writer, writer):
                end.close()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection: _Connection,
        *,
        to_server: bool,
    ) -> None:
        """Hand on what comes, in its order and later by half a round trip."""
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver(late, writer, connection, to_server=to_server))
            while data := await reader.read(_CHUNK_BYTES):
                if to_server:
                    self._note_sent(connection)
                late.put_nowait((self._clock.now_s() + self.rtt_s / 2, data))
            late.put_nowait((self._clock.now_s() + self.rtt_s / 2, b""))

    async def _deliver(
        self,
        late: "asyncio.Queue[tuple[float, bytes]]",
        writer: asyncio.StreamWriter,
        connection: _Connection,
        *,
        to_server: bool,
    ) -> None:
        while True:
            due_s, data = await late.get()
            wait_s = due_s - self._clock.now_s()
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            if not data:
                writer.close()
                return
            if not to_server:
                self._note_answered(connection)
            writer.write(data)
            await writer.drain()

    def _note_sent(self, connection: _Connection) -> None:
        if connection.is_answering:
            connection.is_answering = False
            connection.depth = self._answered + 1
            self.num_requests += 1
            self.num_round_trips = max(self.num_round_trips, connection.depth)

    def _note_answered(self, connection: _Connection) -> None:
        connection.is_answering = True
        self._answered = max(self._answered, connection.depth)
