"""A store that keeps nothing but where each open session's log has come to, so that memory stays bounded."""

from collections.abc import AsyncIterator, Sequence

from parrot.ports.store import Appended, AppendOutcome, ClosedSession, IdempotentReply, StoreUsage
from parrot.types.events import Event, SessionClosed
from parrot.types.ids import SessionId, TenantId


class ForgetfulStore:
    """`ports.Store` for simulations: events are numbered and forgotten.

    It does not fence late resolutions; nothing in a simulation resolves a variable twice.
    """

    def __init__(self) -> None:
        self._last_seqs: dict[SessionId, int] = {}

    async def append(
        self, events: Sequence[Event], *, idempotent: IdempotentReply | None = None
    ) -> AppendOutcome:
        """Number the events; see `Store.append`."""
        if idempotent is not None:
            raise ValueError("a simulation sends no idempotency keys")
        appended: list[Appended] = []
        for event in events:
            session_id = event.session_id
            seq = self._last_seqs.get(session_id, 0) + 1
            appended.append(Appended(seq=seq, event=event))
            if isinstance(event, SessionClosed):
                self._last_seqs.pop(session_id, None)
            else:
                self._last_seqs[session_id] = seq
        return AppendOutcome(appended=tuple(appended), dropped=())

    async def find_idempotent(self, tenant_id: TenantId, scope: str, key: str) -> IdempotentReply | None:
        """None: no replies are kept."""
        del tenant_id, scope, key
        return None

    async def load_open(self) -> AsyncIterator[Sequence[Appended]]:
        """Nothing: a simulation begins empty."""
        nothing: tuple[Sequence[Appended], ...] = ()
        for log in nothing:
            yield log

    async def load_session(self, session_id: SessionId, *, after_seq: int = 0) -> Sequence[Appended]:
        """Nothing: events are not kept."""
        del session_id, after_seq
        return ()

    async def load_closed(self, limit: int) -> Sequence[ClosedSession]:
        """None: what is closed is forgotten."""
        del limit
        return ()

    async def usage(self) -> StoreUsage:
        """Nothing is kept, so nothing is used."""
        return StoreUsage(bytes_of={}, free_bytes=None, total_bytes=None)

    async def purge(self, *, closed_before_wall_s: float) -> int:
        """Nothing is there to be forgotten."""
        del closed_before_wall_s
        return 0

    async def close(self) -> None:
        """There is nothing to let go of."""
