"""One change of a session's shape at a time."""

import asyncio

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
        self._locks: dict[SessionId, _Lock] = {}

    def hold(self, session: Session) -> "_Hold":
        """Hold back other changes while the block lasts; raises `GoneError` when the session is being closed
        by then.
        """
        return _Hold(self._locks, session)


class _Lock(asyncio.Lock):
    """Counts those who hold it or wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.num_users = 0


class _Hold:
    """One who holds a session's lock, or waits for it."""

    __slots__ = ("_lock", "_locks", "_session")

    def __init__(self, locks: dict[SessionId, _Lock], session: Session) -> None:
        self._locks = locks
        self._session = session

    async def __aenter__(self) -> None:
        session_id = self._session.session_id
        lock = self._locks.get(session_id)
        if lock is None:
            lock = self._locks[session_id] = _Lock()
        self._lock = lock
        lock.num_users += 1
        try:
            await lock.acquire()
        except asyncio.CancelledError:
            self._leave()
            raise
        if self._session.closing:
            lock.release()
            self._leave()
            raise GoneError("the session was deleted")

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._lock.num_users -= 1
        if not self._lock.num_users:
            del self._locks[self._session.session_id]
