"""What happens inside one write transaction: several appends, each whole or not at all."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Column, Connection, Row, Select, bindparam, delete, func, insert, select, update

from parrot.ports.store import AppendOutcome, ClosedSession, IdempotentReply
from parrot.store.ledger import Ledger, fenced_calls, resolved_variables
from parrot.store.schema import ATTEMPTS, EVENTS, REPLIES, RESOLUTIONS, SESSIONS
from parrot.types.events import CallPlaced, Event, SessionClosed, SessionOpened, VariableFailed, VariableReady
from parrot.types.ids import CallId, SessionId, TenantId
from parrot.wire.events import decode_event, encode_event, event_name

MAX_IN = 10_000
"""Values in one IN list; SQLite allows about three times as many, PostgreSQL six."""

ReplyKey = tuple[str, str, str]
Growth = Counter[TenantId]
"""Bytes of events that came, or with a minus went, by tenant."""


def _select_in(column: Column[str]) -> Select[tuple[object, ...]]:
    return select(column.table).where(column.in_(bindparam("values", expanding=True)))


# Built once: to build a statement takes as long as to run it.
_FIND_SESSIONS = _select_in(SESSIONS.c.session_id)
_FIND_ATTEMPTS = _select_in(ATTEMPTS.c.call_id)
_FIND_RESOLUTIONS = _select_in(RESOLUTIONS.c.variable_id)
_FIND_REPLIES = _select_in(REPLIES.c.key)
_INSERT_SESSION = insert(SESSIONS)
_INSERT_EVENT = insert(EVENTS)
_INSERT_RESOLUTION = insert(RESOLUTIONS)
_INSERT_ATTEMPT = insert(ATTEMPTS)
_RAISE_ATTEMPT = (
    update(ATTEMPTS)
    .where(ATTEMPTS.c.call_id == bindparam("placed_call"))
    .values(attempt=bindparam("latest_attempt"))
)
_INSERT_REPLY = insert(REPLIES)
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
        events = [event for append in appends for event in append.events]
        sessions = _matching(connection, _FIND_SESSIONS, {event.session_id for event in events})
        self._numbers = {SessionId(row.session_id): int(row.session_no) for row in sessions}
        self._owners = {SessionId(row.session_id): TenantId(row.tenant_id) for row in sessions}
        self._sizes: Counter[SessionId] = Counter()
        """Bytes of the events that the batch adds to each session."""
        attempts = _matching(connection, _FIND_ATTEMPTS, fenced_calls(events))
        resolved = _matching(connection, _FIND_RESOLUTIONS, resolved_variables(events))
        self._ledger = Ledger(
            last_seqs={row.session_id: row.last_seq for row in sessions},
            attempts={row.call_id: row.attempt for row in attempts},
            resolved={row.variable_id for row in resolved},
        )
        keys = {append.idempotent.key for append in appends if append.idempotent is not None}
        replies = (reply_of(row) for row in _matching(connection, _FIND_REPLIES, keys))
        self._replies = {_reply_key(reply): reply for reply in replies}
        self._stored_attempts = {row.call_id for row in attempts}
        self._placed: dict[CallId, int] = {}
        """Calls that the batch places, and the number of their session."""
        self._next_number: int | None = None
        self._rows: dict[str, list[dict[str, object]]] = {
            name: [] for name in ("sessions", "events", "resolutions", "replies", "closed")
        }
        self._touched: set[SessionId] = set()

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
            self._rows["replies"].append(
                {
                    "tenant_id": reply.tenant_id,
                    "scope": reply.scope,
                    "key": reply.key,
                    "body_hash": reply.body_hash,
                    "reply": reply.reply,
                    "session_no": None if first is None else self._numbers[first],
                }
            )
        return outcome

    def write(self) -> Growth:
        """Send the rows to the database; gives what they add."""
        rows = self._rows
        opened = {row["session_id"] for row in rows["sessions"]}
        for row in rows["sessions"]:
            session_id = SessionId(str(row["session_id"]))
            row["last_seq"], row["num_bytes"] = self._ledger.last_seqs[session_id], self._sizes[session_id]
        grown = [
            {
                "number": self._numbers[session_id],
                "last_seq": self._ledger.last_seqs[session_id],
                "more_bytes": self._sizes[session_id],
            }
            for session_id in self._touched - opened
        ]
        latest = self._ledger.attempts
        first: list[dict[str, object]] = [
            {"call_id": call_id, "session_no": number, "attempt": latest[call_id]}
            for call_id, number in self._placed.items()
            if call_id not in self._stored_attempts
        ]
        again: list[dict[str, object]] = [
            {"placed_call": call_id, "latest_attempt": latest[call_id]}
            for call_id in self._placed
            if call_id in self._stored_attempts
        ]
        for statement, parameters in (
            (_INSERT_SESSION, rows["sessions"]),
            (_INSERT_EVENT, rows["events"]),
            (_INSERT_RESOLUTION, rows["resolutions"]),
            (_INSERT_ATTEMPT, first),
            (_RAISE_ATTEMPT, again),
            (_INSERT_REPLY, rows["replies"]),
            (_SET_LAST_SEQ, grown),
            (_SET_CLOSED, rows["closed"]),
        ):
            if parameters:
                self._connection.execute(statement, parameters)
        growth: Growth = Counter()
        for session_id, size in self._sizes.items():
            growth[self._owners[session_id]] += size
        return growth

    def _add_event(self, event: Event, seq: int, text: str) -> None:
        rows = self._rows
        self._touched.add(event.session_id)
        self._sizes[event.session_id] += len(text) if text.isascii() else len(text.encode())
        if isinstance(event, SessionOpened):
            number = self._numbers[event.session_id] = self._fresh_number()
            self._owners[event.session_id] = event.tenant_id
            rows["sessions"].append(
                {
                    "session_no": number,
                    "session_id": event.session_id,
                    "purged": False,
                    "tenant_id": event.tenant_id,
                }
            )
        number = self._numbers[event.session_id]
        rows["events"].append({"session_no": number, "seq": seq, "name": event_name(event), "body": text})
        match event:
            case VariableReady() | VariableFailed():
                rows["resolutions"].append({"variable_id": event.variable_id, "session_no": number})
            case CallPlaced():
                self._placed[event.call_id] = number
            case SessionClosed():
                rows["closed"].append({"number": number, "closed_wall_s": event.wall_s})
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
    return IdempotentReply(
        tenant_id=TenantId(row.tenant_id),
        scope=row.scope,
        key=row.key,
        body_hash=row.body_hash,
        reply=row.reply,
    )


def _reply_key(reply: IdempotentReply) -> ReplyKey:
    return (reply.tenant_id, reply.scope, reply.key)


def _matching(
    connection: Connection, query: Select[tuple[object, ...]], values: Iterable[str]
) -> list[Row[tuple[object, ...]]]:
    """The rows that `query` finds for all of `values`, in pieces that every database takes."""
    chosen = list(values)
    pieces = (chosen[start : start + MAX_IN] for start in range(0, len(chosen), MAX_IN))
    return [row for piece in pieces for row in connection.execute(query, {"values": piece})]
