"""The in-process transport streams, and tells the application when the reader leaves."""

import asyncio
from typing import Any

import httpx2
import pytest

from parrot.sdk.asgi import StreamingASGITransport
from parrot.sdk.embedding import ASGIApp


def client(app: ASGIApp) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=StreamingASGITransport(app), base_url="http://embedded.localhost")


async def echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    body = scope["query_string"] + b"|" + message["body"]
    await send(
        {"type": "http.response.start", "status": 201, "headers": [(b"x-path", scope["path"].encode())]}
    )
    await send({"type": "http.response.body", "body": body})


async def test_request_and_answer_pass_through() -> None:
    async with client(echo) as http:
        response = await http.post("/a/b", params={"q": "1"}, content=b"hello")
    assert (response.status_code, response.headers["x-path"], response.text) == (201, "/a/b", "q=1|hello")


async def test_parts_arrive_when_they_are_sent_and_leaving_is_told() -> None:
    left = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    async with client(endless) as http, http.stream("GET", "/") as response:
        assert await anext(response.aiter_raw()) == b"first"
        assert not left.is_set()
    assert left.is_set()


async def test_application_that_ignores_the_leaving_is_ended() -> None:
    ended: list[str] = []

    async def flood(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await asyncio.sleep(0)
        finally:
            ended.append("flood")

    async with client(flood) as http, http.stream("GET", "/") as response:
        assert await anext(response.aiter_raw()) == b"x"
    assert ended == ["flood"]


async def test_cancelled_wait_for_an_answer_reaches_the_application() -> None:
    left: list[str] = []

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        left.append((await receive())["type"])

    async with client(silent) as http:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await http.get("/")
    assert left == ["http.disconnect"]


async def test_application_that_fails_breaks_the_answer() -> None:
    async def before(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("x")

    async def midway(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise KeyError("x")

    async with client(before) as http:
        with pytest.raises(httpx2.RemoteProtocolError, match="KeyError"):
            await http.get("/")
    async with client(midway) as http:
        with pytest.raises(httpx2.ReadError):
            await http.get("/")
