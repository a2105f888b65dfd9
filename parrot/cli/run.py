"""`parrot run`: a Python program with a service beside it."""

import asyncio
import runpy
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import click
from anyio.from_thread import start_blocking_portal

from parrot.assembly import embedded_app
from parrot.cli.failures import Invocation
from parrot.cli.logs import configure_logs
from parrot.cli.phases import Phases
from parrot.config import load_settings
from parrot.config.settings import ENGINE_KINDS
from parrot.ports.clock import SystemClock
from parrot.sdk.embedding import default_service
from parrot.server.run import serve


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--model", metavar="DIR", help="A model directory or Hugging Face name; without it a small random model."
)
@click.option("--engine", type=click.Choice(list(ENGINE_KINDS)), help="What runs the model [torch].")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(
    invocation: Invocation, *, model: str | None, engine: str | None, file: Path, arguments: tuple[str, ...]
) -> None:
    """Start a service inside this process and run FILE with ARGUMENTS.

    In FILE, `parrot.connect()` without an address reaches that service.
    """
    configure_logs("debug" if invocation.debug else "warning")
    with service_beside(model=model, engine=engine) as url, default_service(url):
        sys.argv = [str(file), *arguments]
        sys.path.insert(0, str(file.parent))
        runpy.run_path(str(file), run_name="__main__")


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
