"""The store over a database of SQL.

    append ──► queue ──► writer ──► one transaction for all that waits ──► commit ──► callers return
                           ▲                                                 │
                           └──────── appends that came in meanwhile ◄────────┘

Group commit: one commit waits for the disk once, whatever the number of appends in it. Writing has a thread
of its own, so that neither the disk nor the statements hold up the event loop, and so that no cancelled task
ever leaves a connection in the middle of an answer; reading goes beside it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, func, select

from parrot.errors import StoreError
from parrot.ports.store import Appended, AppendOutcome, ClosedSession, IdempotentReply, StoreUsage
from parrot.store.database import Database
from parrot.store.schema import EVENTS, REPLIES, SESSIONS
from parrot.store.transaction import Append, Growth, closed_sessions, purge_one, reply_of, write_appends
from parrot.types.events import Event
from parrot.types.ids import SessionId, TenantId
from parrot.wire.events import decode_event

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting:
    append: Append
    done: asyncio.Future[AppendOutcome]


class LogStore:
    """`ports.Store` over one database, to which nobody else writes. Made in a running event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parrot-store")
        self._queue: list[_Waiting] = []
        self._filled = asyncio.Event()
        self._closing = False
        self._unsafe: StoreError | None = None
        self._bytes_of: Growth | None = None
        """What each tenant's events take; None until it is asked for."""
        self._writer = asyncio.create_task(self._write_queue(), name="store writer")

    async def append(
        self, events: Sequence[Event], *, idempotent: IdempotentReply | None = None
    ) -> AppendOutcome:
        """See `Store.append`. Raises `ValueError` for events that no log can hold; others are not touched."""
        self._check_open()
        done: asyncio.Future[AppendOutcome] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(Append.of(events, idempotent), done))
        self._filled.set()
        return await done

    async def find_idempotent(self, tenant_id: TenantId, scope: str, key: str) -> IdempotentReply | None:
        """See `Store.find_idempotent`."""
        query = select(REPLIES).where(
            REPLIES.c.key == key, REPLIES.c.scope == scope, REPLIES.c.tenant_id == tenant_id
        )
        row = await self._read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else reply_of(row)

    async def load_open(self) -> AsyncIterator[Sequence[Appended]]:
        """See `Store.load_open`."""
        query = select(SESSIONS.c.session_no).where(SESSIONS.c.closed_wall_s.is_(None))
        query = query.order_by(SESSIONS.c.session_no)
        numbers = await self._read(lambda connection: connection.execute(query).scalars().all())
        for number in numbers:
            yield await self._read(partial(self._load, number=number))

    async def load_session(self, session_id: SessionId, *, after_seq: int = 0) -> Sequence[Appended]:
        """See `Store.load_session`."""
        query = select(SESSIONS.c.session_no).where(SESSIONS.c.session_id == session_id)

        def load(connection: Connection) -> Sequence[Appended]:
            number = connection.execute(query).scalar_one_or_none()
            return () if number is None else self._load(connection, number=number, after_seq=after_seq)

        return await self._read(load)

    async def purge(self, *, closed_before_wall_s: float) -> int:
        """See `Store.purge`. Each session is a transaction, so that appends get their turn in between."""
        num_purged = 0
        while True:
            freed = await self._write(lambda connection: purge_one(connection, closed_before_wall_s))
            if freed is None:
                return num_purged
            num_purged += 1
            self._grow(freed)

    async def load_closed(self, limit: int) -> Sequence[ClosedSession]:
        """See `Store.load_closed`."""
        with self._decoding():
            return await self._read(lambda connection: closed_sessions(connection, limit))

    async def usage(self) -> StoreUsage:
        """See `Store.usage`. What is stored is summed up once, between two commits, and then followed."""
        if self._bytes_of is None:
            size = func.sum(SESSIONS.c.num_bytes)
            query = select(SESSIONS.c.tenant_id, size).where(SESSIONS.c.purged.is_(False))
            query = query.group_by(SESSIONS.c.tenant_id)
            rows = await self._write(lambda connection: connection.execute(query).all())
            self._bytes_of = Counter({TenantId(tenant_id): int(total) for tenant_id, total in rows})
        room = await asyncio.to_thread(self._database.room)
        free, total = room if room is not None else (None, None)
        return StoreUsage(bytes_of=self._bytes_of, free_bytes=free, total_bytes=total)

    def _grow(self, growth: Growth) -> None:
        if self._bytes_of is not None:
            self._bytes_of.update(growth)

    async def close(self) -> None:
        """See `Store.close`."""
        if not self._closing:
            self._closing = True
            self._filled.set()
        self._database.interrupt()
        await asyncio.wait([self._writer])
        await asyncio.to_thread(self._thread.shutdown)
        await asyncio.to_thread(self._database.close)

    def _check_open(self) -> None:
        if self._closing or self._writer.done():
            raise StoreError(f"the store {self._database.name} is closed")

    async def _write_queue(self) -> None:
        while self._queue or not self._closing:
            await self._filled.wait()
            self._filled.clear()
            group, self._queue = self._queue, []
            if group:
                await self._commit(group)

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        appends = [waiting.append for waiting in group]
        error: Exception = StoreError(f"the writer of the store {self._database.name} was stopped")
        results: Sequence[AppendOutcome | Exception] = ()
        try:
            results, growth = await self._write(lambda connection: write_appends(connection, appends))
            self._grow(growth)
        except StoreError as failure:
            error = failure
        finally:
            for waiting, result in zip(group, results or [error] * len(group), strict=True):
                if waiting.done.done():
                    continue
                if isinstance(result, AppendOutcome):
                    waiting.done.set_result(result)
                else:
                    waiting.done.set_exception(result)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a write transaction; it is committed when this returns.

        A fault that no database reports, such as a lack of memory, may strike in the middle of a commit: what
        is stored then is known when it is read again.
        """
        if self._unsafe is not None:
            raise self._unsafe
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._database.write, work)
        except StoreError as error:
            if error.code == "store_unsafe":
                self._unsafe = error
            raise
        except Exception as error:
            self._unsafe = StoreError(
                f"writing to the store {self._database.name} broke off ({type(error).__name__}): only "
                "opening it again tells what is in it",
                code="store_unsafe",
            )
            raise self._unsafe from error

    async def _read(self, work: Callable[[Connection], T]) -> T:
        self._check_open()
        return await asyncio.to_thread(self._database.read, work)

    def _load(self, connection: Connection, *, number: int, after_seq: int = 0) -> tuple[Appended, ...]:
        query = select(EVENTS.c.seq, EVENTS.c.name, EVENTS.c.body)
        query = query.where(EVENTS.c.session_no == number, EVENTS.c.seq > after_seq).order_by(EVENTS.c.seq)
        with self._decoding():
            return tuple(
                Appended(seq=row.seq, event=decode_event(row.name, row.body))
                for row in connection.execute(query)
            )

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        try:
            yield
        except LookupError as error:
            raise StoreError(f"the store {self._database.name}: {error}", code="store_newer") from error
        except ValueError as error:
            raise self._database.damaged("an event in it cannot be read") from error
