"""What a server says of its models, and what is said of a server that serves none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from parrot.bench.apps.openai_side import served_model
from parrot.errors import UnavailableError, UnreachableError


@asynccontextmanager
async def server(body: str) -> AsyncIterator[str]:
    """Answers everything with `body`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_the_first_model_and_its_owner() -> None:
    async with server('{"data": [{"id": "small", "owned_by": "parrot"}, {"id": "other"}]}') as url:
        assert await served_model(url) == ("small", "parrot")


async def test_a_server_whose_engines_are_starting_is_not_called_a_wrong_address() -> None:
    async with server('{"data": []}') as url:
        with pytest.raises(UnavailableError, match="serves no model yet") as caught:
            await served_model(url)
    assert caught.value.code == "engine_unavailable"


@pytest.mark.parametrize("body", ["<html>", "{}", "[]", '{"data": [1]}', '{"data": 7}'])
async def test_another_server_is(body: str) -> None:
    async with server(body) as url:
        with pytest.raises(UnreachableError, match="does not list models") as caught:
            await served_model(url)
    assert caught.value.code == "bad_answer"


async def test_no_server_is_unreachable() -> None:
    async with server("") as url:
        pass
    with pytest.raises(UnreachableError) as caught:
        await served_model(url)
    assert caught.value.code == "unreachable"
