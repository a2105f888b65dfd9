"""HTTP without a network: requests go straight into an ASGI application, answers stream out of it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import httpx2

from parrot.sdk.embedding import ASGIApp, Message

_QUEUED_CHUNKS = 16
_LEAVE_GRACE_S = 1.0


class StreamingASGITransport(httpx2.AsyncBaseTransport):
    """Runs an ASGI application in this process and event loop.

    Unlike httpx2's own ASGI transport it hands on each part of an answer when the application sends it, and
    tells the application (`http.disconnect`) when the reader has left. The application's lifespan is not run.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One request; returns when the application has sent the answer's head."""
        if not isinstance(request.stream, httpx2.AsyncByteStream):
            raise TypeError("this transport takes requests of an AsyncClient")
        exchange = _Exchange(self._app, request, b"".join([part async for part in request.stream]))
        try:
            status, headers = await exchange.head()
        except BaseException:
            await exchange.leave()
            raise
        return httpx2.Response(status, headers=headers, stream=_Body(exchange))


class _Body(httpx2.AsyncByteStream):
    def __init__(self, exchange: "_Exchange") -> None:
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._exchange.body()

    async def aclose(self) -> None:
        await self._exchange.leave()


class _Exchange:
    """One request and its answer."""

    def __init__(self, app: ASGIApp, request: httpx2.Request, body: bytes) -> None:
        self._request = request
        self._unread_body: bytes | None = body
        self._left = asyncio.Event()
        self._head: asyncio.Future[tuple[int, list[tuple[bytes, bytes]]]]
        self._head = asyncio.get_running_loop().create_future()
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUED_CHUNKS)
        self._complete = False
        self._task = asyncio.create_task(self._run(app))

    async def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        return await asyncio.shield(self._head)

    async def body(self) -> AsyncGenerator[bytes, None]:
        while (chunk := await self._chunks.get()) is not None:
            yield chunk
        if not self._complete:
            raise httpx2.ReadError("the application ended in the middle of its answer")

    async def leave(self) -> None:
        """The reader goes: the application is told, given a moment to end, and ended."""
        self._left.set()
        if not self._task.done():
            self._make_room()
            try:
                await asyncio.wait({self._task}, timeout=_LEAVE_GRACE_S)
            finally:
                self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._head.cancel()

    def _make_room(self) -> None:
        while not self._chunks.empty():
            self._chunks.get_nowait()

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app(self._scope(), self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - an application may raise anything
            problem = f"the application failed: {type(error).__name__}"
        else:
            problem = "the application ended without an answer"
        if not self._head.done():
            self._head.set_exception(httpx2.RemoteProtocolError(problem, request=self._request))
            self._head.exception()
        if not self._complete and not self._left.is_set():
            await self._chunks.put(None)

    def _scope(self) -> Message:
        url = self._request.url
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self._request.method,
            "headers": [(name.lower(), value) for name, value in self._request.headers.raw],
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.partition(b"?")[0],
            "query_string": url.query,
            "server": (url.host, url.port),
            "client": ("127.0.0.1", 0),
            "root_path": "",
        }

    async def _receive(self) -> Message:
        if self._unread_body is not None:
            body, self._unread_body = self._unread_body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._left.is_set():
            return
        if message["type"] == "http.response.start":
            self._head.set_result((message["status"], list(message.get("headers", ()))))
            return
        if message["type"] != "http.response.body":
            return
        if body := message.get("body", b""):
            await self._chunks.put(body)
        if not message.get("more_body", False):
            self._complete = True
            await self._chunks.put(None)
