"""A store whose appends can be held back and refused, for tests of what happens meanwhile."""

import asyncio
from collections.abc import Sequence

from parrot.errors import StoreError
from parrot.ports.store import AppendOutcome, IdempotentReply
from parrot.store import MemoryStore
from parrot.types.events import Event
from parrot.types.ids import SessionId


class UnsteadyStore(MemoryStore):
    """A store in memory that waits at `gate`, refuses appends while `down`, and breaks
    when `broken`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.down = False
        self.broken = False
        self.delay_s = 0.0
        self.num_refused = 0
        self.num_held = 0

    async def append(
        self, events: Sequence[Event], *, idempotent: IdempotentReply | None = None
    ) -> AppendOutcome:
        self.num_held += 1
        await self.gate.wait()
        await asyncio.sleep(self.delay_s)
        self.num_held -= 1
        if self.broken:
            raise RuntimeError("a fault of ours")
        if self.down:
            self.num_refused += 1
            raise StoreError("the disk is full", code="store_full")
        return await super().append(events, idempotent=idempotent)

    async def held(self) -> None:
        """Return when an append waits at the gate."""
        async with asyncio.timeout(30):
            while not self.num_held:
                await asyncio.sleep(0)

    async def log(self, session_id: str) -> list[Event]:
        """The events of a session."""
        return [appended.event for appended in await self.load_session(SessionId(session_id))]
