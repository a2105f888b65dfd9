"""The relay between client and server."""

import asyncio
import socket

from parrot.bench.migration.link import Link
from parrot.ports.clock import SystemClock

PATIENCE_S = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def connected(link: Link) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(link.url.rpartition(":")[2])
    return await asyncio.open_connection("127.0.0.1", port)


async def test_a_client_of_a_server_that_is_gone_is_told_so() -> None:
    async with Link(f"http://127.0.0.1:{free_port()}", clock=SystemClock()).open() as link:
        reader, writer = await connected(link)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.close()


async def test_a_link_ends_while_a_client_is_connected() -> None:
    async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(stay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(PATIENCE_S):
        async with Link(f"http://127.0.0.1:{port}", clock=SystemClock()).open() as link:
            reader, writer = await connected(link)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
        assert await reader.read() == b""
    writer.close()
    server.close()
