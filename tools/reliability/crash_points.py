"""Named instants at which a service can be made to kill itself, and a service that does.

The instants are places at the ports: before and after each kind of event is stored, in the open transaction
between the two, before an answer goes out, before and after an engine works, and in the steps of recovery.
The service is the one that `parrot serve` runs; what stands at its ports is wrapped.
"""

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from parrot.core.service import Service
from parrot.ports.engine import Engine, GenerateChunk, GenerateRequest, Progress, StartEngine
from parrot.ports.store import Appended, AppendOutcome, ClosedSession, IdempotentReply, Store, StoreUsage
from parrot.types.events import Event
from parrot.types.ids import SessionId, TenantId
from parrot.wire.events import event_name

KINDS = (
    "session_opened",
    "calls_submitted",
    "variable_set",
    "call_placed",
    "call_retried",
    "variable_ready",
    "variable_failed",
    "call_finished",
    "session_closed",
)
REPLIES = {
    "open": ("POST", "/v1/sessions"),
    "submit": ("POST", "calls"),
    "put": ("PUT", ""),
    "delete": ("DELETE", ""),
}

CRASH_POINTS = (
    *(f"{place}:{kind}" for kind in KINDS for place in ("before_append", "in_transaction", "after_commit")),
    *(f"before_reply:{reply}" for reply in REPLIES),
    "engine:request",
    "engine:first_chunk",
    "engine:last_chunk",
    "told:variable_ready",
    "recovery:begin",
    "recovery:session",
    "recovery:end",
    "purge:begin",
)
"""Every instant; `NAME*3` is its third passage."""


class Trigger:
    """Kills this process at the n-th passage of one instant."""

    def __init__(self, crash_at: str) -> None:
        name, _, number = crash_at.partition("*")
        if name not in CRASH_POINTS:
            raise ValueError(f"no crash point is called {name!r}")
        self._name = name
        self._left = int(number or 1)

    def waits_for(self, name: str) -> bool:
        """Whether this is the instant."""
        return name == self._name

    def pass_by(self, name: str) -> None:
        """The process is at an instant."""
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class CrashingStore:
    """`ports.Store` with instants around it."""

    def __init__(self, store: Store, trigger: Trigger) -> None:
        self._store = store
        self._trigger = trigger

    async def append(
        self, events: Sequence[Event], *, idempotent: IdempotentReply | None = None
    ) -> AppendOutcome:
        """See `Store.append`."""
        kinds = list(map(event_name, events))
        for kind in kinds:
            self._trigger.pass_by(f"before_append:{kind}")
        outcome = await self._store.append(events, idempotent=idempotent)
        for kind in kinds:
            self._trigger.pass_by(f"after_commit:{kind}")
        return outcome

    async def find_idempotent(self, tenant_id: TenantId, scope: str, key: str) -> IdempotentReply | None:
        """See `Store.find_idempotent`."""
        return await self._store.find_idempotent(tenant_id, scope, key)

    async def load_open(self) -> AsyncIterator[Sequence[Appended]]:
        """See `Store.load_open`."""
        self._trigger.pass_by("recovery:begin")
        async for log in self._store.load_open():
            yield log
            self._trigger.pass_by("recovery:session")
        self._trigger.pass_by("recovery:end")

    async def load_session(self, session_id: SessionId, *, after_seq: int = 0) -> Sequence[Appended]:
        """See `Store.load_session`."""
        return await self._store.load_session(session_id, after_seq=after_seq)

    async def load_closed(self, limit: int) -> Sequence[ClosedSession]:
        """See `Store.load_closed`."""
        return await self._store.load_closed(limit)

    async def usage(self) -> StoreUsage:
        """See `Store.usage`."""
        return await self._store.usage()

    async def purge(self, *, closed_before_wall_s: float) -> int:
        """See `Store.purge`."""
        self._trigger.pass_by("purge:begin")
        return await self._store.purge(closed_before_wall_s=closed_before_wall_s)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._store.close()


class CrashingEngine:
    """`ports.Engine` with instants around a generation; everything else is the engine's own."""

    def __init__(self, engine: Engine, trigger: Trigger) -> None:
        self._engine = engine
        self._trigger = trigger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateChunk, None]:
        """See `Engine.generate`."""
        self._trigger.pass_by("engine:request")
        first = True
        async with aclosing(self._engine.generate(request)) as chunks:
            async for chunk in chunks:
                if first:
                    self._trigger.pass_by("engine:first_chunk")
                first = False
                if chunk.end is not None:
                    self._trigger.pass_by("engine:last_chunk")
                yield chunk


@dataclass(frozen=True, slots=True)
class CrashingApp:
    """An ASGI application with an instant before each answer; what else it offers is the application's."""

    app: Any
    trigger: Trigger

    def __getattr__(self, name: str) -> Any:
        return getattr(self.app, name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        point = self._point(scope)

        async def crashing_send(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                self.trigger.pass_by(point)
            await send(message)

        await self.app(scope, receive, crashing_send)

    def _point(self, scope: Any) -> str:
        for name, (method, end) in REPLIES.items():
            if scope.get("method") == method and scope["path"].endswith(end):
                return f"before_reply:{name}"
        return ""


class NotingRows:
    """The rows of a transaction; its connection is told of what kinds the events are that are put there."""

    def __init__(self, rows: Any, connection: Any) -> None:
        self._rows = rows
        self._kinds: list[str] = connection.info.setdefault("kinds", [])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def add(self, table: Any, rows: Sequence[tuple[object, ...]]) -> None:
        """See `Rows.add`."""
        if table.name == "events":
            self._kinds.extend(value for row in rows for value in row if value in KINDS)
        self._rows.add(table, rows)


def strike_in_transactions(trigger: Trigger) -> None:
    """Put instants between the last statement of a transaction and its COMMIT."""
    from sqlalchemy import Connection, Engine, event

    transaction: Any = importlib.import_module("parrot.store.transaction")
    rows_of = transaction.rows_of
    transaction.rows_of = lambda connection: NotingRows(rows_of(connection), connection)

    @event.listens_for(Engine, "commit")
    def strike(connection: Connection) -> None:
        for kind in connection.info.pop("kinds", []):
            trigger.pass_by(f"in_transaction:{kind}")


def crashing_engines(start: Callable[..., StartEngine], trigger: Trigger) -> Callable[..., StartEngine]:
    """How engines are started, with instants around what they generate."""

    def make(*arguments: Any, **options: Any) -> StartEngine:
        begin = start(*arguments, **options)

        async def start_crashing(progress: Progress) -> Engine:
            wrapped: Any = CrashingEngine(await begin(progress), trigger)
            engine: Engine = wrapped
            return engine

        return start_crashing

    return make


async def watch_for_values(service: Service, trigger: Trigger) -> None:
    """Pass by the instant at which everybody was told of a value."""
    async for event in service.watch():
        trigger.pass_by(f"told:{event_name(event)}")


def main(crash_at: str, arguments: Sequence[str]) -> None:
    """Run a command of `parrot` that kills itself at an instant."""
    from parrot.cli.root import run as run_command
    from parrot.store import open_store

    # The two modules that put the service together; typing does not let what they import be replaced.
    serving: Any = importlib.import_module("parrot.cli.serving")
    assembly: Any = importlib.import_module("parrot.assembly")
    trigger = Trigger(crash_at)
    build, make_app, watching = serving.build_service, serving.create_app, set[asyncio.Task[None]]()
    strike_in_transactions(trigger)

    async def build_crashing(settings: Any, **options: Any) -> Service:
        store = CrashingStore(await open_store(settings.store), trigger)
        service: Service = await build(settings, store=store, **options)
        if trigger.waits_for("told:variable_ready"):
            watching.add(asyncio.create_task(watch_for_values(service, trigger)))
        return service

    def make_crashing_app(*given: Any, **options: Any) -> Any:
        return CrashingApp(make_app(*given, **options), trigger)

    serving.build_service, serving.create_app = build_crashing, make_crashing_app
    assembly.start_in_process = crashing_engines(assembly.start_in_process, trigger)
    sys.exit(run_command(list(arguments)))
