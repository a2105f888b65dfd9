"""A server that ends at once tells who waits to come again; it does not say that it failed."""

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

from server_fakes import FakeService

from parrot.server.app import create_app
from parrot.server.config import ServerConfig


async def test_a_request_that_is_cut_short_is_told_to_come_again() -> None:
    waiting = asyncio.Event()

    class Waiting(FakeService):
        async def get_variable(self, *_: Any, **__: Any) -> Any:
            waiting.set()
            await asyncio.Event().wait()

    service: Any = Waiting()
    app = create_app(service, ServerConfig())
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/v1/sessions/s/variables/v", "raw_path": b"/",
        "query_string": b"wait=20", "headers": [(b"host", b"x")], "http_version": "1.1", "scheme": "http",
        "server": ("x", 1), "client": ("127.0.0.1", 1), "root_path": "",
    }  # fmt: skip
    request = asyncio.create_task(app(scope, receive, send))
    await waiting.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["error"]["code"] == "draining"
