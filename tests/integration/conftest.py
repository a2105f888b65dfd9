"""A whole service with a scripted engine, on a socket of this machine."""

from collections.abc import AsyncIterator

import pytest_asyncio
from http_harness import Harness, running_service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http_service() -> AsyncIterator[Harness]:
    """One service for all tests of a module."""
    async with running_service() as harness:
        yield harness
