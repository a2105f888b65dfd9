"""A client that costs as little as can be, so that the service is what is measured."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from parrot.errors import UnreachableError


class Connection:
    """One kept-alive HTTP/1.1 connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    async def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Send a request and give the answer's body.

        Raises:
            UnreachableError: the service refused it, or the connection broke.
        """
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        try:
            self._writer.write(f"{head}\r\n".encode() + body)
            status, answer = await self._answer()
        except (OSError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
            raise UnreachableError(f"{method} {path}: the connection broke: {error!r}") from error
        if status >= 400:
            raise UnreachableError(
                f"{method} {path}: {status} {answer.decode(errors='replace')}", code="bad_answer"
            )
        return answer

    async def _answer(self) -> tuple[int, bytes]:
        """Status and body."""
        received = await self._reader.readuntil(b"\r\n\r\n")
        lines = received.decode("latin-1").lower().split("\r\n")
        status = int(lines[0].split(" ", 2)[1])
        if "transfer-encoding: chunked" in lines:
            return status, b"".join([part async for part in self._chunks()])
        lengths = [line[15:] for line in lines if line.startswith("content-length:")]
        return status, await self._reader.readexactly(int(lengths[0])) if lengths else b""

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            part = await self._reader.readexactly(size + 2)
            if not size:
                return
            yield part[:-2]

    async def json(self, method: str, path: str, body: object = None) -> Any:
        """The same in JSON."""
        return json.loads(
            await self.request(method, path, b"" if body is None else json.dumps(body).encode())
        )

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection to a service on this machine.

    Raises:
        UnreachableError: nothing listens there.
    """
    parts = urlsplit(url)
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 26)
    except OSError as error:
        raise UnreachableError(f"no service answers at {url}: {error}") from error
    connection = Connection(reader, writer, parts.netloc)
    try:
        yield connection
    finally:
        await connection.close()
