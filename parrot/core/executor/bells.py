"""Waking those who wait for something to change, without polling."""

import asyncio
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager


class Listener:
    """Hears the bells of many keys, those too that are rung while it looks elsewhere."""

    def __init__(self) -> None:
        self._rung: dict[Hashable, None] = {}
        self._waiter: asyncio.Future[None] | None = None

    def hear(self, key: Hashable) -> None:
        """The bell of `key` was rung."""
        self._rung[key] = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> list[Hashable]:
        """The keys that were rung since this was last asked, at least one, in order."""
        if not self._rung:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        rung, self._rung = list(self._rung), {}
        return rung


class Bells:
    """A bell for each key; it exists only while somebody waits for it."""

    def __init__(self) -> None:
        self._waiters: dict[Hashable, set[asyncio.Future[None]]] = {}
        self._listeners: dict[Hashable, set[Listener]] = {}

    def ring(self, key: Hashable) -> None:
        """Wake all who wait for `key`."""
        for waiter in self._waiters.pop(key, ()):
            if not waiter.done():
                waiter.set_result(None)
        for listener in self._listeners.get(key, ()):
            listener.hear(key)

    @contextmanager
    def listening(self, keys: Iterable[Hashable]) -> Iterator[Listener]:
        """Hear the bells of all `keys` until the block ends."""
        listener, heard = Listener(), list(keys)
        for key in heard:
            self._listeners.setdefault(key, set()).add(listener)
        try:
            yield listener
        finally:
            for key in heard:
                listeners = self._listeners.get(key, set())
                listeners.discard(listener)
                if not listeners:
                    self._listeners.pop(key, None)

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
        waiting = sum(len(waiters) for waiters in self._waiters.values())
        return waiting + sum(len(listeners) for listeners in self._listeners.values())
