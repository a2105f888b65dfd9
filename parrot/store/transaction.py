"""What happens inside one write transaction: several appends, each whole or not at all."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Connection, Row, bindparam, delete, func, select, update

from parrot.ports.store import AppendOutcome, ClosedSession, IdempotentReply
from parrot.store.ledger import Ledger, fenced_calls, resolved_variables
from parrot.store.rows import Values, rows_of
from parrot.store.schema import ATTEMPTS, EVENTS, REPLIES, RESOLUTIONS, SESSIONS
from parrot.types.events import CallPlaced, Event, SessionClosed, SessionOpened, VariableFailed, VariableReady
from parrot.types.ids import CallId, SessionId, TenantId, VariableId
from parrot.wire.events import decode_event, encode_event, event_name

ReplyKey = tuple[str, str, str]
Growth = Counter[TenantId]
"""Bytes of events that came, or with a minus went, by tenant."""


_SESSION = (SESSIONS.c.session_id, SESSIONS.c.session_no, SESSIONS.c.last_seq, SESSIONS.c.tenant_id)
_ATTEMPT = (ATTEMPTS.c.call_id, ATTEMPTS.c.attempt)
_RESOLUTION = (RESOLUTIONS.c.variable_id,)
_REPLY = (REPLIES.c.tenant_id, REPLIES.c.scope, REPLIES.c.key, REPLIES.c.body_hash, REPLIES.c.reply)
# Built once: to build a statement takes as long as to run it.
_RAISE_ATTEMPT = (
    update(ATTEMPTS)
    .where(ATTEMPTS.c.call_id == bindparam("placed_call"))
    .values(attempt=bindparam("latest_attempt"))
)
_SET_LAST_SEQ = (
    update(SESSIONS)
    .where(SESSIONS.c.session_no == bindparam("number"))
    .values(last_seq=bindparam("last_seq"), num_bytes=SESSIONS.c.num_bytes + bindparam("more_bytes"))
)
_SET_CLOSED = (
    update(SESSIONS)
    .where(SESSIONS.c.session_no == bindparam("number"))
    .values(closed_wall_s=bindparam("closed_wall_s"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """One caller's events, with their text made ready in advance."""

    events: tuple[Event, ...]
    texts: dict[int, str]
    """JSON text by the event object's identity."""
    idempotent: IdempotentReply | None

    @classmethod
    def of(cls, events: Sequence[Event], idempotent: IdempotentReply | None) -> "Append":
        """Raises `ValueError` when an event cannot be written as JSON."""
        texts = {id(event): encode_event(event) for event in events}
        return cls(events=tuple(events), texts=texts, idempotent=idempotent)


def write_appends(
    connection: Connection, appends: Sequence[Append]
) -> tuple[list[AppendOutcome | ValueError], Growth]:
    """Write all `appends` in order within the connection's transaction. Gives their outcomes, and what they
    added.

    An append whose events do not fit the log gets a `ValueError` in place of its outcome and leaves nothing.
    The tables' keys are unique, so a second writer could at worst fail, never win a second time.
    """
    batch = _Batch(connection, appends)
    outcomes: list[AppendOutcome | ValueError] = []
    for append in appends:
        try:
            outcomes.append(batch.add(append))
        except ValueError as error:
            outcomes.append(error)
    return outcomes, batch.write()


class _Batch:
    """The ledger of a transaction, and the rows that it will write."""

    def __init__(self, connection: Connection, appends: Sequence[Append]) -> None:
        self._connection = connection
        self._rows = rows_of(connection)
        events = [event for append in appends for event in append.events]
        known = {event.session_id for event in events}
        sessions = cast(
            "list[tuple[SessionId, int, int, TenantId]]",
            self._rows.find(SESSIONS.c.session_id, _SESSION, known),
        )
        self._numbers = {session_id: number for session_id, number, _, _ in sessions}
        self._owners = {session_id: tenant_id for session_id, _, _, tenant_id in sessions}
        self._sizes: Counter[SessionId] = Counter()
        """Bytes of the events that the batch adds to each session."""
        placed = self._rows.find(ATTEMPTS.c.call_id, _ATTEMPT, fenced_calls(events))
        attempts = dict(cast("list[tuple[CallId, int]]", placed))
        resolved = self._rows.find(RESOLUTIONS.c.variable_id, _RESOLUTION, resolved_variables(events))
        self._stored_attempts = frozenset(attempts)
        self._ledger = Ledger(
            last_seqs={session_id: last_seq for session_id, _, last_seq, _ in sessions},
            attempts=attempts,
            resolved={cast("VariableId", variable_id) for (variable_id,) in resolved},
        )
        keys = {append.idempotent.key for append in appends if append.idempotent is not None}
        replies = (
            _reply(*cast("tuple[TenantId, str, str, str, str]", row))
            for row in self._rows.find(REPLIES.c.key, _REPLY, keys)
        )
        self._replies = {_reply_key(reply): reply for reply in replies}
        self._placed: dict[CallId, int] = {}
        """Calls that the batch places, and the number of their session."""
        self._next_number: int | None = None
        self._opened: list[SessionOpened] = []
        self._events: list[Values] = []
        self._resolutions: list[Values] = []
        self._new_replies: list[Values] = []
        self._closed: list[dict[str, object]] = []

    def add(self, append: Append) -> AppendOutcome:
        reply = append.idempotent
        if reply is not None:
            existing = self._replies.get(_reply_key(reply))
            if existing is not None:
                return AppendOutcome(appended=(), dropped=(), existing=existing)
        outcome = self._ledger.admit(append.events)
        for appended in outcome.appended:
            self._add_event(appended.event, appended.seq, append.texts[id(appended.event)])
        if reply is not None:
            self._replies[_reply_key(reply)] = reply
            first = append.events[0].session_id if append.events else None
            number = None if first is None else self._numbers[first]
            self._new_replies.append(
                (reply.key, reply.scope, reply.tenant_id, reply.body_hash, reply.reply, number)
            )
        return outcome

    def write(self) -> Growth:
        """Send the rows to the database; gives what they add."""
        rows, numbers, last_seqs = self._rows, self._numbers, self._ledger.last_seqs
        opened = {
            event.session_id: (
                numbers[event.session_id],
                event.session_id,
                last_seqs[event.session_id],
                None,
                False,
                event.tenant_id,
                self._sizes[event.session_id],
            )
            for event in self._opened
        }
        grown: list[dict[str, object]] = [
            {"number": numbers[session_id], "last_seq": last_seqs[session_id], "more_bytes": size}
            for session_id, size in self._sizes.items()
            if session_id not in opened
        ]
        latest, stored = self._ledger.attempts, self._stored_attempts
        first = [
            (call_id, number, latest[call_id])
            for call_id, number in self._placed.items()
            if call_id not in stored
        ]
        again: list[dict[str, object]] = [
            {"placed_call": call_id, "latest_attempt": latest[call_id]}
            for call_id in self._placed
            if call_id in stored
        ]
        rows.add(SESSIONS, list(opened.values()))
        rows.add(EVENTS, self._events)
        rows.add(RESOLUTIONS, self._resolutions)
        rows.add(ATTEMPTS, first)
        rows.change(_RAISE_ATTEMPT, again)
        rows.add(REPLIES, self._new_replies)
        rows.change(_SET_LAST_SEQ, grown)
        rows.change(_SET_CLOSED, self._closed)
        growth: Growth = Counter()
        for session_id, size in self._sizes.items():
            growth[self._owners[session_id]] += size
        return growth

    def _add_event(self, event: Event, seq: int, text: str) -> None:
        session_id = event.session_id
        self._sizes[session_id] += len(text) if text.isascii() else len(text.encode())
        if isinstance(event, SessionOpened):
            self._numbers[session_id] = self._fresh_number()
            self._owners[session_id] = event.tenant_id
            self._opened.append(event)
        number = self._numbers[session_id]
        self._events.append((number, seq, event_name(event), text))
        match event:
            case VariableReady() | VariableFailed():
                self._resolutions.append((event.variable_id, number))
            case CallPlaced():
                self._placed[event.call_id] = number
            case SessionClosed():
                self._closed.append({"number": number, "closed_wall_s": event.wall_s})
            case _:
                pass

    def _fresh_number(self) -> int:
        if self._next_number is None:
            highest = self._connection.execute(select(func.max(SESSIONS.c.session_no))).scalar_one()
            self._next_number = int(highest or 0) + 1
        number = self._next_number
        self._next_number += 1
        return number


def closed_sessions(connection: Connection, limit: int) -> tuple[ClosedSession, ...]:
    """The sessions that were closed last, oldest first."""
    latest = (
        select(SESSIONS.c.session_no, SESSIONS.c.session_id, SESSIONS.c.tenant_id, SESSIONS.c.closed_wall_s)
        .where(SESSIONS.c.closed_wall_s.is_not(None))
        .order_by(SESSIONS.c.closed_wall_s.desc())
        .limit(limit)
        .subquery()
    )
    query = (
        select(latest.c.session_id, latest.c.tenant_id, EVENTS.c.name, EVENTS.c.body)
        .join(EVENTS, (EVENTS.c.session_no == latest.c.session_no) & (EVENTS.c.name == "session_closed"))
        .order_by(latest.c.closed_wall_s, latest.c.session_no)
    )
    found: list[ClosedSession] = []
    for row in connection.execute(query):
        event = decode_event(row.name, row.body)
        if isinstance(event, SessionClosed):
            found.append(
                ClosedSession(
                    session_id=SessionId(row.session_id),
                    tenant_id=TenantId(row.tenant_id),
                    reason=event.reason,
                )
            )
    return tuple(found)


def purge_one(connection: Connection, closed_before_wall_s: float) -> Growth | None:
    """Empty one log that was closed before a time, but for its two ends; None when there is none left."""
    row = connection.execute(
        select(SESSIONS.c.session_no, SESSIONS.c.tenant_id, SESSIONS.c.num_bytes)
        .where(SESSIONS.c.closed_wall_s < closed_before_wall_s, SESSIONS.c.purged.is_(False))
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    number = row.session_no
    ends = ("session_opened", "session_closed")
    connection.execute(delete(EVENTS).where(EVENTS.c.session_no == number, EVENTS.c.name.not_in(ends)))
    for table in (RESOLUTIONS, ATTEMPTS, REPLIES):
        connection.execute(delete(table).where(table.c.session_no == number))
    connection.execute(
        update(SESSIONS).where(SESSIONS.c.session_no == number).values(purged=True, num_bytes=0)
    )
    return Counter({TenantId(row.tenant_id): -int(row.num_bytes)})


def reply_of(row: Row[tuple[object, ...]]) -> IdempotentReply:
    """A row of `replies` as a value."""
    return _reply(TenantId(row.tenant_id), row.scope, row.key, row.body_hash, row.reply)


def _reply(tenant_id: TenantId, scope: str, key: str, body_hash: str, reply: str) -> IdempotentReply:
    return IdempotentReply(tenant_id=tenant_id, scope=scope, key=key, body_hash=body_hash, reply=reply)


def _reply_key(reply: IdempotentReply) -> ReplyKey:
    return (reply.tenant_id, reply.scope, reply.key)
