"""A service that answers at once with what it is told, and a client for one request at a time."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import httpx2
from starlette.types import ASGIApp, Message

from parrot.core.admission import TenantTerms
from parrot.core.limits import Limits
from parrot.core.service import Service
from parrot.errors import NotFoundError, ParrotError
from parrot.server.app import ParrotApp, create_app
from parrot.server.config import ServerConfig
from parrot.types.ids import TenantId
from parrot.types.objective import Objective
from parrot.wire.answers import (
    AcceptedCall,
    CallCounts,
    CallsAccepted,
    CancelAnswer,
    EngineList,
    EngineView,
    GraphView,
    Health,
    ModelList,
    ModelView,
    OutputView,
    SessionList,
    SessionView,
    VariableView,
)
from parrot.wire.requests import CancelRequest, SessionCreate, SetVariable, SubmitCalls

SID = "ses_" + "0" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a stream yields."""

    event: str
    data: Mapping[str, object]
    event_id: str | None = None


def session_view(name: str | None = None) -> SessionView:
    return SessionView(
        session_id=SID,
        name=name,
        state="open",
        objective=None,
        deadline_s=None,
        metadata={},
        created_at=1.0,
        calls=CallCounts(),
        num_variables=0,
    )


def engine_view() -> EngineView:
    return EngineView(
        engine_id="engine-0",
        kind="scripted",
        model="tiny",
        state="up",
        device="cpu",
        dtype="none",
        num_parameters=0,
        context_tokens=64,
        block_tokens=16,
        num_blocks=4,
        kv_capacity_tokens=64,
        num_running=1,
        num_waiting=0,
        num_owned_blocks=2,
        num_cached_blocks=1,
        num_free_blocks=1,
        num_prefilled_tokens=10,
        num_decoded_tokens=20,
        num_preemptions=0,
        num_evictions=0,
        num_restarts=0,
        description="",
    )


@dataclass
class FakeService:
    """Records what it is asked; raises `error` when there is one."""

    limits: Limits = field(default_factory=Limits)
    error: Exception | None = None
    view: VariableView = field(
        default_factory=lambda: VariableView(variable_id="var_1", name="x", state="pending")
    )
    status: str = "ok"
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    stream: Callable[[], AsyncGenerator[Item, None]] | None = None
    stream_closed: asyncio.Event = field(default_factory=asyncio.Event)
    drained: bool = False
    admitted: list[TenantId] = field(default_factory=list)
    terms: Mapping[TenantId, TenantTerms] = field(default_factory=dict)
    metered: bool = False

    def _ask(self, *what: Any) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    async def open_session(
        self,
        tenant: TenantId,
        request: SessionCreate,
        *,
        idempotency_key: str | None = None,
        body_hash: str = "",
    ) -> SessionView:
        self._ask("open_session", tenant, request)
        return session_view(request.name)

    def list_sessions(self, tenant: TenantId, *, limit: int = 100, after: str | None = None) -> SessionList:
        self._ask("list_sessions", tenant, limit, after)
        return SessionList(sessions=(session_view(),), next=None)

    def session(self, tenant: TenantId, sid: str) -> SessionView:
        self._ask("session", tenant, sid)
        return session_view()

    async def delete_session(self, tenant: TenantId, sid: str) -> None:
        self._ask("delete_session", tenant, sid)

    async def submit(
        self,
        tenant: TenantId,
        sid: str,
        request: SubmitCalls,
        *,
        idempotency_key: str | None = None,
        body_hash: str = "",
    ) -> CallsAccepted:
        self._ask("submit", tenant, sid, request, idempotency_key, body_hash)
        outputs = {"out": OutputView(variable_id="var_1", name=None)}
        return CallsAccepted(calls=(AcceptedCall(call_id="call_1", name="call_0", outputs=outputs),))

    async def set_variable(self, tenant: TenantId, sid: str, ref: str, request: SetVariable) -> VariableView:
        self._ask("set_variable", tenant, sid, ref, request.value)
        return VariableView(variable_id="var_1", name=ref, state="ready", value=request.value)

    async def get_variable(
        self,
        tenant: TenantId,
        sid: str,
        ref: str,
        *,
        wait_s: float = 0.0,
        objective: Objective | None = None,
    ) -> VariableView:
        self._ask("get_variable", tenant, sid, ref, wait_s, objective)
        if wait_s:
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.released.set()
        return self.view

    def stream_variable(
        self,
        tenant: TenantId,
        sid: str,
        ref: str,
        *,
        last_event_id: str | None = None,
        objective: Objective | None = None,
    ) -> AsyncGenerator[Item, None]:
        self.asked.append(("stream_variable", tenant, sid, ref, last_event_id, objective))
        return self._items()

    def stream_session(
        self, tenant: TenantId, sid: str, *, last_event_id: str | None = None
    ) -> AsyncGenerator[Item, None]:
        self.asked.append(("stream_session", tenant, sid, last_event_id))
        return self._items()

    async def _items(self) -> AsyncGenerator[Item, None]:
        if self.error is not None:
            raise self.error
        try:
            if self.stream is not None:
                async for item in self.stream():
                    yield item
        finally:
            self.stream_closed.set()

    async def cancel(self, tenant: TenantId, sid: str, request: CancelRequest) -> CancelAnswer:
        self._ask("cancel", tenant, sid, request)
        return CancelAnswer(cancelled=())

    async def graph_by_steps(self, tenant: TenantId, sid: str) -> GraphView:
        self._ask("graph", tenant, sid)
        return GraphView(session_id=SID, calls=(), variables=(), edges=())

    def models(self) -> ModelList:
        return ModelList(data=(ModelView(id="tiny", max_model_len=64),))

    def engines(self) -> EngineList:
        return EngineList(engines=(engine_view(),))

    def limits_view(self, tenant: TenantId | None = None) -> dict[str, int | float]:
        return asdict(self.limits)

    def admit_request(self, tenant: TenantId) -> None:
        self.admitted.append(tenant)

    def set_tenants(self, terms: Mapping[TenantId, TenantTerms], *, metered: bool) -> None:
        self.terms, self.metered = terms, metered

    def health(self) -> Health:
        return Health.model_validate({"status": self.status, "version": "9.9", "detail": None})

    def counters(self) -> Mapping[str, int]:
        return {"calls_submitted": 7}

    async def drain(self, timeout_s: float) -> None:
        self.asked.append(("drain", timeout_s))
        self.drained = True


def app_of(service: FakeService, config: ServerConfig | None = None) -> ParrotApp:
    return create_app(cast("Service", service), config or ServerConfig())


def client_of(app: ASGIApp) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=cast("Any", app), raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1")


def not_found() -> ParrotError:
    return NotFoundError("no such session", param="sid")


class Exchange:
    """One request, driven by hand: the test decides when the client leaves and when it reads."""

    def __init__(self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> None:
        path, _, query = path.partition("?")
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "scheme": "http",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
            "state": {},
        }
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self.readable = asyncio.Event()
        self.readable.set()
        self.changed = asyncio.Condition()
        self._body_given = False

    async def receive(self) -> Message:
        if not self._body_given:
            self._body_given = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def receive_never(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        await self.readable.wait()
        async with self.changed:
            self.sent.append(message)
            self.changed.notify_all()

    async def until(self, text: bytes) -> None:
        """Wait until the answer's body contains `text`."""
        async with self.changed:
            await self.changed.wait_for(lambda: text in self.body)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent)

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def complete(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False
