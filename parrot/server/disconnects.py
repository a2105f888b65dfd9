"""Waiting for something on behalf of a client that may leave."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class DisconnectedError(Exception):
    """The client went away; there is nobody to answer."""


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone. Call it after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(
    work: Coroutine[Any, Any, T], *, receive: Receive, closing: asyncio.Event
) -> T | None:
    """The result of `work`, which is cancelled at once when the client leaves or the service closes.

    Returns None when the service closes first.

    Raises:
        DisconnectedError: the client left first.
    """
    main = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(receive))
    closed = asyncio.ensure_future(closing.wait())
    tasks = (main, gone, closed)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if main.done():
            return main.result()
        if gone.done():
            raise DisconnectedError
        return None
    finally:
        await cancel_all(*tasks)


async def cancel_all(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel tasks and wait until they have ended, whatever they end with."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
