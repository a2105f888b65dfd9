"""Keeps sessions: finds them for their owner, recovers them, closes them, and sweeps for what is due."""

import asyncio
import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Literal

from parrot.core.executor.dispatcher import Dispatcher
from parrot.core.executor.progress import ProgressWatch
from parrot.core.executor.runtime import Runtime
from parrot.core.executor.streams import forget_live
from parrot.core.functions import is_log
from parrot.core.recovery import new_session, rebuild
from parrot.core.sessions import Session, analyse, deadline_failure
from parrot.errors import GoneError, InvalidError, NotFoundError, OverLimitError, StoreError
from parrot.ports.store import Appended, IdempotentReply, Store
from parrot.types.events import (
    Event,
    Failure,
    SessionClosed,
    SessionOpened,
    VariableFailed,
    VariableReady,
)
from parrot.types.ids import SessionId, TenantId, is_ephemeral

MAX_TOMBSTONES = 100_000
"""Closed sessions whose owner is told that they were there."""

OPENINGS = "sessions"
"""The scope of the keys under which sessions are opened."""

PURGE_INTERVAL_S = 60.0
"""How often logs of sessions that were closed long ago are forgotten."""

Reason = Literal["deleted", "expired"]

logger = logging.getLogger(__name__)


class Keeper:
    """All sessions of the service."""

    def __init__(self, runtime: Runtime, dispatcher: Dispatcher, store: Store) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._store = store
        self.sessions: dict[SessionId, Session] = {}
        """Open sessions, oldest first."""
        self._num_sessions: Counter[TenantId] = Counter()
        """Sessions of each tenant that are open or being opened."""
        self._tombstones: OrderedDict[SessionId, tuple[TenantId, Reason]] = OrderedDict()
        self._due_changed = asyncio.Event()
        self._purged_at = 0.0
        self._progress = ProgressWatch(runtime.clock, runtime.limits)

    async def open_session(
        self, event: SessionOpened, *, key: str | None = None, body_hash: str = ""
    ) -> Session:
        """Commit a session's opening and take the session in; under a key that was used before, give the
        session that was opened under it.

        Raises:
            OverLimitError: the tenant has as many as it may have, those counted that are being opened.
            InvalidError: `idempotency_mismatch`.
            GoneError: the session that was opened under the key is closed.
            StoreError: the opening is not stored.
        """
        reply = None
        if key is not None:
            reply = IdempotentReply(
                tenant_id=event.tenant_id,
                scope=OPENINGS,
                key=key,
                body_hash=body_hash,
                reply=event.session_id,
            )
        session = self.prepare(event)
        known = await self.commit_opening(session, [event], reply)
        return session if known is None else self._opened_before(known, body_hash)

    def check_metadata(self, metadata: Mapping[str, str]) -> None:
        """Refuse more of it than a session may have.

        Raises:
            InvalidError: `too_many`.
        """
        size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
        if size > self._runtime.limits.max_metadata_bytes:
            raise InvalidError("metadata is too large", code="too_many", param="metadata")

    def prepare(self, event: SessionOpened) -> Session:
        """A session that nobody knows yet."""
        session = new_session(event, self._runtime.limits)
        analyse(session, self._runtime.lengths)
        return session

    async def commit_opening(
        self, session: Session, events: Sequence[Event], reply: IdempotentReply | None
    ) -> IdempotentReply | None:
        """Commit a prepared session's opening, with what happens in it at once, and take the session in.

        Returns what was answered under the key before, if anything: then nothing was committed.

        Raises:
            OverLimitError: as `open_session`.
            StoreError: it is not stored.
        """
        tenant = session.tenant_id
        try:
            self._runtime.admission.check_storage(tenant)
            self._runtime.admission.check_sessions(tenant, self._num_sessions[tenant])
        except (OverLimitError, StoreError):
            known = await self.find_reply(tenant, reply.scope, reply.key) if reply is not None else None
            if known is None:
                raise
            return known
        self._num_sessions[tenant] += 1
        try:
            outcome = await self._runtime.journal.commit(events, idempotent=reply)
        except StoreError:
            self._leave(tenant)
            raise
        if outcome.existing is not None:
            self._leave(tenant)
            return outcome.existing
        self._take_in(session)
        return None

    async def find_reply(self, tenant: TenantId, scope: str, key: str | None) -> IdempotentReply | None:
        """What was answered under a key, if anything."""
        return None if key is None else await self._store.find_idempotent(tenant, scope, key)

    def _opened_before(self, known: IdempotentReply, body_hash: str) -> Session:
        if known.body_hash != body_hash:
            raise InvalidError(
                "this idempotency key was used for another body",
                code="idempotency_mismatch",
                param="Idempotency-Key",
            )
        return self.find(known.tenant_id, known.reply)

    def open_ephemeral(self, event: SessionOpened, *, silent: bool = False) -> Session:
        """Take in a session that lives in memory only, and is not counted; whoever opens it drops it."""
        session = self.prepare(event)
        session.silent = silent
        self._take_in(session)
        if not silent:
            self._runtime.journal.tell(event)
        return session

    def drop(self, session: Session) -> None:
        """End a session that lives in memory only. Idempotent."""
        if session.closing:
            return
        session.closing = True
        self._dispatcher.forget(session)
        self._wake_readers(session)
        del self.sessions[session.session_id]
        if not session.silent:
            now = self._runtime.clock.wall_s()
            closed = SessionClosed(session_id=session.session_id, reason="deleted", wall_s=now)
            self._runtime.journal.tell(closed)

    def _take_in(self, session: Session) -> None:
        self.sessions[session.session_id] = session
        self._runtime.counters["sessions_opened"] += 1
        if session.deadline_at is not None:
            self._due_changed.set()

    def find(self, tenant: TenantId, sid: str) -> Session:
        """A tenant's open session; another's is not found, a closed one is gone."""
        session = self.sessions.get(SessionId(sid))
        if session is not None and session.tenant_id == tenant and not session.closing:
            return session
        owner, reason = self._tombstones.get(SessionId(sid), (None, None))
        if owner == tenant and reason is not None:
            raise GoneError(f"the session was {reason}", code=_gone_code(reason))
        raise NotFoundError("no such session")

    def check_alive(self, session: Session) -> None:
        """Raise `GoneError` when a session was closed while somebody waited."""
        if session.closing:
            self.find(session.tenant_id, session.session_id)

    # ── events ──────────────────────────────────────────────────────────────────────────────────────────────

    def see(self, appended: Appended) -> None:
        """An event was committed: what it says may be shown now."""
        event = appended.event
        match event:
            case VariableReady() | VariableFailed():
                session = self.sessions.get(event.session_id)
                if session is not None:
                    session.uncommitted.discard(event.variable_id)
                forget_live(self._runtime, event.variable_id)
            case _:
                return

    # ── recovery and the sweep ──────────────────────────────────────────────────────────────────────────────

    async def recover(self) -> None:
        """Rebuild every open session, and have its unfinished calls run; read the registered functions, and
        which sessions were closed.
        """
        await self._measure()
        for closed in await self._store.load_closed(MAX_TOMBSTONES):
            self._tombstones[closed.session_id] = (closed.tenant_id, closed.reason)
        async for log in self._store.load_open():
            if is_log(log):
                self._runtime.functions.replay(log)
                continue
            session, ready = rebuild(log, self._runtime.limits)
            analyse(session, self._runtime.lengths)
            # Reading leaves no trace in the log, so nobody can say how long it was idle.
            session.touched_at = self._runtime.clock.wall_s()
            self.sessions[session.session_id] = session
            self._num_sessions[session.tenant_id] += 1
            self._dispatcher.make_ready(session, ready)
        if self.sessions:
            logger.info("recovered %d sessions", len(self.sessions))

    async def run(self) -> None:
        """Sweep every few seconds, and whenever a deadline passes, until cancelled."""
        while True:
            self._due_changed.clear()
            await self._sweep()
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._due_changed.wait()
            except TimeoutError:
                logger.debug("time for a sweep")

    def _pause_s(self) -> float:
        now = self._runtime.clock.wall_s()
        due = [s.deadline_at - now for s in self.sessions.values() if s.deadline_at and s.deadline_at > now]
        return max(0.001, min([self._runtime.config.sweep_interval_s, *due]))

    async def _sweep(self) -> None:
        now = self._runtime.clock.wall_s()
        limits = self._runtime.limits
        for session in list(self.sessions.values()):
            if session.closing:
                continue
            in_use = session.num_unfinished or session.num_readers
            idle = not in_use and now - session.touched_at > limits.session_idle_ttl_s
            if idle or now - session.created_at > limits.session_ttl_s:
                await self._expire(session)
            elif not session.deadline_passed and now >= (session.deadline_at or math.inf):
                await self._pass_deadline(session)
        self._time_out_calls(now)
        self._progress.look(self._dispatcher.active.values())
        await self._measure()
        await self._purge(now)

    async def _measure(self) -> None:
        """Ask what the store holds and has room for; when it does not say, what it said last stands."""
        try:
            self._runtime.admission.usage = await self._store.usage()
        except StoreError as error:
            logger.warning("the store does not say what room it has: %s", error.message)

    async def _purge(self, now: float) -> None:
        if now - self._purged_at < PURGE_INTERVAL_S:
            return
        self._purged_at = now
        try:
            await self._store.purge(closed_before_wall_s=now - self._runtime.limits.retention_s)
        except StoreError as error:
            logger.warning("old sessions cannot be forgotten now: %s", error.message)

    async def _expire(self, session: Session) -> None:
        try:
            await self.close_session(session, "expired")
        except StoreError as error:
            logger.warning("session %s cannot be closed now: %s", session.session_id, error.message)
        except GoneError:
            # Deleted meanwhile.
            return

    async def _pass_deadline(self, session: Session) -> None:
        """The session's deadline is over: everything that is still pending fails."""
        try:
            async with self._runtime.locks.hold(session):
                unfinished = [call.call_id for call in session.graph.calls.values() if not call.ended]
                session.deadline_passed = True
                self._dispatcher.fail_pending(
                    session, unfinished, list(session.graph.variables), deadline_failure(session)
                )
        except GoneError:
            # Deleted meanwhile, and everything in it with it.
            return

    def _time_out_calls(self, now: float) -> None:
        limits = self._runtime.limits
        whole_s, queue_s, run_s = limits.call_timeout_s, limits.queue_timeout_s, limits.execution_timeout_s
        for session, record in list(self._dispatcher.active.values()):
            if record.ready_at is None:
                continue
            since_s, state = now - record.ready_at, session.graph.calls[record.call_id].state
            if since_s > whole_s:
                message = f"the call did not end within {whole_s:g} s"
            elif since_s > queue_s and state == "ready":
                message = f"the call waited for an engine for more than {queue_s:g} s"
            elif state == "running" and record.placed_at is not None and now - record.placed_at > run_s:
                message = f"an engine had the call for more than {run_s:g} s"
            else:
                continue
            self._dispatcher.fail(session, [record.call_id], Failure(code="deadline", message=message))

    # ── closing ─────────────────────────────────────────────────────────────────────────────────────────────

    async def close_session(self, session: Session, reason: Reason) -> None:
        """Commit the end, then stop what runs and forget the rest. When the store refuses, the session goes
        on: what is being committed to it is let through before, so that it goes on with all that its log has.
        """
        if session.closing:
            self.find(session.tenant_id, session.session_id)
        if is_ephemeral(session.session_id):
            self.drop(session)
            return
        async with self._runtime.locks.hold(session):
            session.closing = True
            self._bury(session, reason)
            now = self._runtime.clock.wall_s()
            try:
                await self._runtime.journal.commit(
                    [SessionClosed(session_id=session.session_id, reason=reason, wall_s=now)]
                )
            except StoreError:
                session.closing = False
                self._tombstones.pop(session.session_id, None)
                raise
        self._dispatcher.forget(session)
        self._wake_readers(session)
        del self.sessions[session.session_id]
        self._leave(session.tenant_id)

    async def settle(self) -> None:
        """Have everything recorded so far committed, but do not wait for a store that is down."""
        try:
            await self._runtime.journal.flush()
        except StoreError as error:
            logger.warning("results of the last moments are not stored, their calls run again: %s", error)

    def _leave(self, tenant: TenantId) -> None:
        self._num_sessions[tenant] -= 1
        if not self._num_sessions[tenant]:
            del self._num_sessions[tenant]

    def _bury(self, session: Session, reason: Reason) -> None:
        self._tombstones[session.session_id] = (session.tenant_id, reason)
        if len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)

    def _wake_readers(self, session: Session) -> None:
        for variable_id in session.graph.variables:
            forget_live(self._runtime, variable_id)


def _gone_code(reason: Reason) -> str:
    return "session_expired" if reason == "expired" else "session_closed"
