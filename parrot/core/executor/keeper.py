"""Keeps sessions: finds them for their owner, recovers them, closes them, and sweeps for what is due."""

import asyncio
import logging
from collections import OrderedDict
from typing import Literal

from parrot.core.executor.dispatcher import Dispatcher
from parrot.core.executor.runtime import Runtime
from parrot.core.executor.streams import forget_live
from parrot.core.recovery import rebuild
from parrot.core.sessions import Session
from parrot.errors import GoneError, NotFoundError, StoreError
from parrot.ports.store import Appended, Store
from parrot.types.events import (
    Failure,
    SessionClosed,
    VariableFailed,
    VariableReady,
)
from parrot.types.ids import CallId, SessionId, TenantId

MAX_TOMBSTONES = 100_000
"""Closed sessions whose owner is told that they were there."""

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
        self._tombstones: OrderedDict[SessionId, tuple[TenantId, Reason]] = OrderedDict()
        self._due_changed = asyncio.Event()
        self._purged_at = 0.0

    def add(self, session: Session) -> None:
        """A session was opened."""
        self.sessions[session.session_id] = session
        self._due_changed.set()

    def num_sessions(self, tenant: TenantId) -> int:
        """Open sessions of a tenant."""
        return sum(session.tenant_id == tenant for session in self.sessions.values())

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

    def call_id(self, session: Session, ref: str) -> CallId:
        """A call by its id or name."""
        if ref in session.graph.calls:
            return CallId(ref)
        for record in session.records.values():
            if record.name == ref:
                return record.call_id
        raise NotFoundError("no such call")

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
        """Rebuild every open session, and have its unfinished calls run."""
        async for log in self._store.load_open():
            session, ready = rebuild(log, self._runtime.limits)
            self.sessions[session.session_id] = session
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
            idle = now - session.touched_at > limits.session_idle_ttl_s and not session.num_unfinished
            if idle or now - session.created_at > limits.session_ttl_s:
                await self._expire(session)
            elif session.deadline_at is not None and now >= session.deadline_at:
                self._pass_deadline(session)
        self._time_out_calls(now)
        await self._purge(now)

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

    def _pass_deadline(self, session: Session) -> None:
        """The session's deadline is over: everything that is still pending fails."""
        failure = Failure(code="deadline", message=f"the session's deadline of {session.deadline_s} s passed")
        graph = session.graph
        unfinished = [c.call_id for c in graph.calls.values() if c.state in {"waiting", "ready", "running"}]
        self._dispatcher.fail(session, unfinished, failure)
        for variable in list(graph.variables.values()):
            if variable.state == "pending":
                self._dispatcher.spread(session, graph.fail(variable.variable_id, failure))

    def _time_out_calls(self, now: float) -> None:
        limit_s = self._runtime.limits.call_timeout_s
        failure = Failure(code="deadline", message=f"the call did not end within {limit_s:.0f} s")
        for session, record in list(self._dispatcher.active.values()):
            if record.ready_at is not None and now - record.ready_at > limit_s:
                self._dispatcher.fail(session, [record.call_id], failure)

    # ── closing ─────────────────────────────────────────────────────────────────────────────────────────────

    async def close_session(self, session: Session, reason: Reason) -> None:
        """Stop what runs, commit the end, forget the rest."""
        if session.closing:
            self.find(session.tenant_id, session.session_id)
        session.closing = True
        self._bury(session, reason)
        self._dispatcher.forget(session)
        now = self._runtime.clock.wall_s()
        try:
            await self._runtime.journal.commit(
                [SessionClosed(session_id=session.session_id, reason=reason, wall_s=now)]
            )
        finally:
            self._wake_readers(session)
            self.sessions.pop(session.session_id, None)

    async def settle(self) -> None:
        """Have everything recorded so far committed, but do not wait for a store that is down."""
        if self._runtime.journal.failure is None:
            await self._runtime.journal.flush()

    def _bury(self, session: Session, reason: Reason) -> None:
        self._tombstones[session.session_id] = (session.tenant_id, reason)
        if len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)

    def _wake_readers(self, session: Session) -> None:
        for variable_id in session.graph.variables:
            forget_live(self._runtime, variable_id)


def _gone_code(reason: Reason) -> str:
    return "session_expired" if reason == "expired" else "session_closed"
