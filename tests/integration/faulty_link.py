"""A relay between a client and a server on this machine that loses, delays and breaks."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["none", "cut request", "cut answer", "swallow answer"]
_PIECE_BYTES = 1024


@dataclass(kw_only=True)
class FaultyLink:
    """Relays to `target`; what is faulty about it may be changed at any time.

    `cut request`: half of a request goes on, then both sides are reset. `cut answer`: the client is reset
    when the answer comes. `swallow answer`: the answer never comes, and the connection stays.
    """

    target: str
    latency_s: float = 0.0
    bytes_per_s: float = float("inf")
    fault: Fault = "none"
    every: int = 2
    """Every so manieth request that makes something is struck, the first one included."""
    url: str = ""
    num_struck: int = 0
    _num_requests: int = 0
    _relays: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["FaultyLink"]:
        """Relay until the block ends."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for relay in self._relays:
                relay.cancel()
            await asyncio.gather(*self._relays, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.create_task(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = urlsplit(self.target)
        server_reader, server_writer = await asyncio.open_connection(there.hostname, there.port)
        struck: list[Fault] = []
        up = asyncio.create_task(self._up(reader, server_writer, struck))
        down = asyncio.create_task(self._down(server_reader, writer, struck))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            for side in (writer, server_writer):
                if struck:
                    _reset(side)
                side.close()

    async def _up(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, struck: list[Fault]
    ) -> None:
        while data := await reader.read(1 << 16):
            if data.startswith((b"POST", b"PUT")):
                self._num_requests += 1
                if self.fault != "none" and self._num_requests % self.every == 1 % self.every:
                    self.num_struck += 1
                    struck.append(self.fault)
            await asyncio.sleep(self.latency_s)
            if struck and struck[-1] == "cut request":
                writer.write(data[: len(data) // 2])
                await writer.drain()
                return
            await self._send(data, writer)

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, struck: list[Fault]
    ) -> None:
        while data := await reader.read(1 << 16):
            if struck and struck[-1] == "cut answer":
                return
            if struck and struck[-1] == "swallow answer":
                continue
            await asyncio.sleep(self.latency_s)
            await self._send(data, writer)

    async def _send(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            await asyncio.sleep(len(piece) / self.bytes_per_s)
            writer.write(piece)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Have the connection end with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
