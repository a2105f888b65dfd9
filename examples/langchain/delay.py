"""A service further away: a TCP proxy that hands every byte on a moment later."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

from anyio.from_thread import start_blocking_portal


@contextmanager
def far_away(url: str, seconds: float) -> Iterator[str]:
    """The address of a proxy to the service at `url`, with so many seconds on the way, in each direction."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_proxy(url, seconds)) as address,
    ):
        yield address


@asynccontextmanager
async def _proxy(url: str, seconds: float) -> AsyncIterator[str]:
    target = urlsplit(url)
    links: set[asyncio.Task[None]] = set()

    async def link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(target.hostname, target.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader, there_writer, seconds))
                group.create_task(_carry(there_reader, writer, seconds))
        except* ConnectionError:
            # One side left; so does the other.
            pass
        finally:
            for end in (there_writer, writer):
                end.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(link(reader, writer))
        links.add(task)
        task.add_done_callback(links.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        open_links = list(links)
        for task in open_links:
            task.cancel()
        await asyncio.gather(*open_links, return_exceptions=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(1 << 16):
        loop.call_later(seconds, writer.write, data)
    await asyncio.sleep(seconds)
    writer.close()
