"""A service in a thread of this process, for programs and the demo."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace

from anyio.from_thread import start_blocking_portal

from parrot.assembly import embedded_app
from parrot.cli.phases import Phases
from parrot.config import load_settings
from parrot.ports.clock import SystemClock
from parrot.server.run import serve


@contextmanager
def service_beside(*, model: str | None, engine: str | None) -> Iterator[str]:
    """A service on a free loopback port, in a thread of its own; gives its address.

    Raises:
        ParrotError: the service could not start.
    """
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_listening(model, engine)) as url,
    ):
        yield url


@asynccontextmanager
async def _listening(model: str | None, engine: str | None) -> AsyncIterator[str]:
    settings = load_settings().settings
    server = replace(settings.server, host="127.0.0.1", port=0, keys=(), drain_timeout_s=0.0)
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        with Phases(clock=SystemClock()) as phases:
            app = await stack.enter_async_context(
                embedded_app(model=model, engine=engine, settings=settings, on_progress=phases.show)
            )
        group = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(stop.set)
        group.create_task(
            serve(
                app, server, on_ready=lambda host, port: ready.set_result(f"http://{host}:{port}"), stop=stop
            )
        )
        yield await ready
