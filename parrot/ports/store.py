"""The durable store: an append-only log of events per session, with two guarantees that replay cannot give.

* A variable resolves once: the first `VariableReady` or `VariableFailed` for it wins; a later one is dropped
  and counted.
* An attempt fences: a resolution whose `attempt` is lower than the call's latest `CallPlaced` is dropped and
  counted.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from parrot.types.events import Event
from parrot.types.ids import SessionId, TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotentReply:
    """What was answered to a request that carried an `Idempotency-Key`."""

    tenant_id: TenantId
    scope: str
    """The route and session, so that a key is good for one place only."""
    key: str
    body_hash: str
    reply: str
    """The answer's JSON text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """One event as it stands in the log."""

    seq: int
    """1, 2, 3 … within its session, without gaps."""
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendOutcome:
    """What became of a batch."""

    appended: tuple[Appended, ...]
    """In order; an event that was dropped is missing."""
    dropped: tuple[Event, ...]
    """Resolutions that came second or from an attempt that is fenced off."""
    existing: IdempotentReply | None = None
    """Set when the batch carried a key that is known: then nothing at all was appended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedSession:
    """What is known of a session after its end."""

    session_id: SessionId
    tenant_id: TenantId
    reason: Literal["deleted", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUsage:
    """What the store holds, and what it has room for."""

    bytes_of: Mapping[TenantId, int]
    """JSON text of each tenant's events that are kept. It goes on changing as events come and go."""
    free_bytes: int | None
    """Of its file system, for who is not its administrator; None when it cannot be known."""
    total_bytes: int | None


class Store(Protocol):
    """Where sessions survive. One service writes to a store at a time.

    Raises `StoreError`: `store_unavailable`, `store_full`, `store_corrupt`, `store_locked`, `store_newer`;
    and `store_unsafe`, after which only opening it again tells what is in it: nothing is taken until then.
    """

    async def append(
        self, events: Sequence[Event], *, idempotent: IdempotentReply | None = None
    ) -> AppendOutcome:
        """Append `events` atomically, in order; they may be of several sessions. Returns after the commit.

        Appends made one after the other are committed in that order; several may share one commit. When one
        raises `StoreError`, so do those that were made after it before it was known, so that they can be
        made again in order. Only durable events are given.
        """
        ...

    async def find_idempotent(self, tenant_id: TenantId, scope: str, key: str) -> IdempotentReply | None:
        """The reply stored under a key, if any."""
        ...

    def load_open(self) -> AsyncIterator[Sequence[Appended]]:
        """The whole log of every session without a `SessionClosed`, one session at a time, oldest first."""
        ...

    async def load_session(self, session_id: SessionId, *, after_seq: int = 0) -> Sequence[Appended]:
        """One session's log, open or closed; empty when it is not known."""
        ...

    async def load_closed(self, limit: int) -> Sequence[ClosedSession]:
        """The `limit` sessions that were closed last, oldest first."""
        ...

    async def usage(self) -> StoreUsage:
        """How much each tenant's events take, and how much room there is."""
        ...

    async def purge(self, *, closed_before_wall_s: float) -> int:
        """Forget sessions closed before a time, but for their `SessionOpened` and `SessionClosed`. Returns
        how many.
        """
        ...

    async def close(self) -> None:
        """Finish what was appended and let go. Idempotent."""
        ...
