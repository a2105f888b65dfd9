"""A service with a scripted engine on a socket, in a thread of its own, for clients that block."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from anyio.from_thread import start_blocking_portal
from sdk_harness import application, listening

from parrot.engine.scripted_config import ScriptedConfig

TEXT_KEYED = ScriptedConfig(key="text", answer_words=8)


@asynccontextmanager
async def _serving(config: ScriptedConfig) -> AsyncIterator[str]:
    async with application(config) as app, listening(app) as address:
        yield address


@contextmanager
def scripted_service(config: ScriptedConfig) -> Iterator[str]:
    """The address of a service with a scripted engine."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_serving(config)) as address:
        yield address
