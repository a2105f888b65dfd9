"""The store in memory: it lives as long as its process."""

from collections.abc import AsyncIterator, Sequence

from parrot.errors import StoreError
from parrot.ports.store import Appended, AppendOutcome, ClosedSession, IdempotentReply, StoreUsage
from parrot.store.ledger import Ledger
from parrot.types.events import Event, SessionClosed, SessionOpened
from parrot.types.ids import SessionId, TenantId

ReplyKey = tuple[TenantId, str, str]


class MemoryStore:
    """A store without a file, for services embedded in a program and for tests."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._logs: dict[SessionId, list[Appended]] = {}
        self._closed: dict[SessionId, float] = {}
        self._replies: dict[ReplyKey, IdempotentReply] = {}
        self._replies_of: dict[SessionId, list[ReplyKey]] = {}
        self._shut = False

    async def append(
        self, events: Sequence[Event], *, idempotent: IdempotentReply | None = None
    ) -> AppendOutcome:
        """See `Store.append`."""
        self._check_open()
        if idempotent is not None:
            key = (idempotent.tenant_id, idempotent.scope, idempotent.key)
            existing = self._replies.get(key)
            if existing is not None:
                return AppendOutcome(appended=(), dropped=(), existing=existing)
        outcome = self._ledger.admit(events)
        for appended in outcome.appended:
            event = appended.event
            self._logs.setdefault(event.session_id, []).append(appended)
            if isinstance(event, SessionClosed):
                self._closed[event.session_id] = event.wall_s
        if idempotent is not None:
            self._replies[key] = idempotent
            if events:
                self._replies_of.setdefault(events[0].session_id, []).append(key)
        return outcome

    async def find_idempotent(self, tenant_id: TenantId, scope: str, key: str) -> IdempotentReply | None:
        """See `Store.find_idempotent`."""
        self._check_open()
        return self._replies.get((tenant_id, scope, key))

    async def load_open(self) -> AsyncIterator[Sequence[Appended]]:
        """See `Store.load_open`."""
        self._check_open()
        for session_id in [known for known in self._logs if known not in self._closed]:
            yield tuple(self._logs[session_id])

    async def load_session(self, session_id: SessionId, *, after_seq: int = 0) -> Sequence[Appended]:
        """See `Store.load_session`."""
        self._check_open()
        return tuple(item for item in self._logs.get(session_id, ()) if item.seq > after_seq)

    async def load_closed(self, limit: int) -> Sequence[ClosedSession]:
        """See `Store.load_closed`."""
        self._check_open()
        return tuple(map(self._closed_session, list(self._closed)[-limit:]))

    def _closed_session(self, session_id: SessionId) -> ClosedSession:
        log = self._logs[session_id]
        opening, ending = log[0].event, log[-1].event
        if not (isinstance(opening, SessionOpened) and isinstance(ending, SessionClosed)):
            raise StoreError("a closed session's log has no ends", code="store_corrupt")
        return ClosedSession(session_id=session_id, tenant_id=opening.tenant_id, reason=ending.reason)

    async def usage(self) -> StoreUsage:
        """See `Store.usage`: nothing is counted, as memory is the program's own."""
        self._check_open()
        return StoreUsage(bytes_of={}, free_bytes=None, total_bytes=None)

    async def purge(self, *, closed_before_wall_s: float) -> int:
        """See `Store.purge`."""
        self._check_open()
        num_purged = 0
        for session_id, closed_wall_s in self._closed.items():
            log = self._logs[session_id]
            kept = [item for item in log if isinstance(item.event, SessionOpened | SessionClosed)]
            if closed_wall_s < closed_before_wall_s and len(kept) < len(log):
                self._logs[session_id] = kept
                num_purged += 1
                for key in self._replies_of.pop(session_id, ()):
                    del self._replies[key]
        return num_purged

    async def close(self) -> None:
        """See `Store.close`."""
        self._shut = True

    def _check_open(self) -> None:
        if self._shut:
            raise StoreError("the store is closed")
