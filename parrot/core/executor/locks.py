"""One change of a session's shape at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from parrot.core.sessions import Session
from parrot.errors import GoneError
from parrot.types.ids import SessionId


class SessionLocks:
    """A lock for each session; it exists only while somebody holds it or waits for it.

    It is held from the check of a submission, or of a value that a client sets, to its commit and the change
    in memory, and by whatever fails variables that a client could set. So what was checked is still true when
    it is committed, and memory and log see these changes in the same order.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[SessionId, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, session: Session) -> AsyncIterator[None]:
        """Hold back other changes; raises `GoneError` when the session is being closed."""
        lock = self._locks.get(session.session_id)
        if lock is None:
            lock = self._locks[session.session_id] = asyncio.Lock()
        async with lock:
            if session.closing:
                raise GoneError("the session was deleted")
            yield
