"""Waking those who wait for something to change, without polling."""

import asyncio
from collections.abc import Hashable


class Bells:
    """A bell for each key; it exists only while somebody waits for it."""

    def __init__(self) -> None:
        self._waiters: dict[Hashable, set[asyncio.Future[None]]] = {}

    def ring(self, key: Hashable) -> None:
        """Wake all who wait for `key`."""
        for waiter in self._waiters.pop(key, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, key: Hashable) -> None:
        """Return at the next ring. Check what you wait for first, with no `await` in between."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(key, set()).add(waiter)
        try:
            await waiter
        finally:
            waiters = self._waiters.get(key)
            if waiters is not None:
                waiters.discard(waiter)
                if not waiters:
                    del self._waiters[key]

    @property
    def num_waiting(self) -> int:
        """How many wait in all."""
        return sum(len(waiters) for waiters in self._waiters.values())
