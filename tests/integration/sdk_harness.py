"""A whole service for the SDK: on a socket, or embedded in the test's process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from parrot.assembly import embedded_app
from parrot.config import Settings
from parrot.config.settings import EngineConfig, EngineSettings
from parrot.engine.scripted_config import ScriptedAnswer, ScriptedConfig
from parrot.sdk.asgi import StreamingASGITransport
from parrot.sdk.connect import connect
from parrot.sdk.session import Session
from parrot.server.app import ParrotApp
from parrot.server.config import ServerConfig
from parrot.server.run import serve

ANSWERS = (
    ScriptedAnswer(pattern="List:", answer='["red", "green"]'),
    ScriptedAnswer(pattern="Not a list:", answer="{}"),
)
SCRIPTED = ScriptedConfig(answers=ANSWERS, answer_words=12)
SLOW = ScriptedConfig(answer_words=40, decode_step_s=0.02, tokens_per_step=4)


@asynccontextmanager
async def application(engine: EngineConfig = SCRIPTED) -> AsyncIterator[ParrotApp]:
    """A service as an ASGI application."""
    settings = Settings(engines=(EngineSettings(name="main", config=engine),))
    async with embedded_app(settings=settings) as app:
        yield app


@asynccontextmanager
async def listening(app: ParrotApp) -> AsyncIterator[str]:
    """The same on a free loopback port; gives its address."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    config = ServerConfig(port=0, drain_timeout_s=1.0, close_timeout_s=1.0)
    serving = asyncio.create_task(
        serve(
            app,
            config,
            on_ready=lambda host, port: ready.set_result(f"http://{host}:{port}"),
            stop=stop,
        )
    )
    try:
        yield await asyncio.wait_for(ready, 10)
    finally:
        stop.set()
        await serving


@asynccontextmanager
async def embedded_session(engine: EngineConfig = SCRIPTED, **options: Any) -> AsyncIterator[Session]:
    """A session on a service in this process, without a socket."""
    async with (
        application(engine) as app,
        connect(transport=StreamingASGITransport(app), **options) as session,
    ):
        yield session


def texts(values: Sequence[object]) -> list[str]:
    """Values as texts."""
    return [str(value) for value in values]
