"""The service's face to its shells (HTTP, embedded): one method for each thing a client can ask for.

Every method takes the tenant first. What belongs to another tenant is answered as if it did not exist.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import asdict

from parrot.core.admission import Admission, TenantTerms
from parrot.core.executor.direct import Direct
from parrot.core.executor.dispatcher import Dispatcher
from parrot.core.executor.fleet import Fleet
from parrot.core.executor.functions import Functions
from parrot.core.executor.journal import Journal
from parrot.core.executor.keeper import Keeper
from parrot.core.executor.outlook import look_ahead_from
from parrot.core.executor.requests import Requests
from parrot.core.executor.runs import Runs
from parrot.core.executor.runtime import Runtime
from parrot.core.executor.streams import StreamItem, stream_session, stream_variable
from parrot.core.executor.submission import Submission
from parrot.core.executor.unbroken import Unbroken
from parrot.core.limits import Limits
from parrot.core.service_config import ServiceConfig
from parrot.core.sessions import Session
from parrot.core.variables import Variable
from parrot.core.views import engine_view, graph_by_steps, graph_view, session_view, variable_view
from parrot.errors import NotFoundError, UnavailableError, fault_trace
from parrot.ports.clock import Clock
from parrot.ports.engine import StartEngine
from parrot.ports.store import Store
from parrot.types.events import Event, Failure, ObjectiveStated, SessionOpened, VariableSet
from parrot.types.ids import (
    NAME_PATTERN,
    EngineId,
    IdSource,
    TenantId,
    is_variable_id,
    session_id,
    variable_id,
)
from parrot.types.objective import Objective
from parrot.wire.answers import (
    CallsAccepted,
    CancelAnswer,
    EngineList,
    GraphView,
    Health,
    ModelList,
    ModelView,
    SessionList,
    SessionView,
    VariableView,
)
from parrot.wire.requests import CancelRequest, SessionCreate, SetVariable, SubmitCalls

__all__ = ["Service", "StreamItem"]

logger = logging.getLogger(__name__)


class Service:
    """Sessions, their graphs, and the engines that run them."""

    def __init__(
        self,
        *,
        config: ServiceConfig,
        limits: Limits,
        store: Store,
        engines: Mapping[EngineId, StartEngine],
        clock: Clock,
        fresh: IdSource,
        version: str = "",
        on_progress: Callable[[EngineId, str, float | None], None] | None = None,
    ) -> None:
        self._limits = limits
        self._store = store
        self._clock = clock
        self._fresh = fresh
        self._version = version
        self._fleet = Fleet(engines, config=config, clock=clock, on_progress=on_progress)
        self._journal = Journal(store, clock)
        self._admission = Admission(limits, clock, lambda: self._fleet.kv_capacity_tokens)
        self._runtime = Runtime(
            config=config,
            limits=limits,
            clock=clock,
            fleet=self._fleet,
            journal=self._journal,
            admission=self._admission,
        )
        self._dispatcher = Dispatcher(self._runtime)
        self._keeper = Keeper(self._runtime, self._dispatcher, store)
        self._journal.add_reader(self._keeper.see)
        self._journal.add_reader(self._admission.see)
        self._submission = Submission(self._runtime, self._dispatcher, store, fresh)
        self._unbroken = Unbroken()
        self.functions = Functions(self._runtime, self._unbroken, check_open=self._check_open)
        """The tenants' registered functions."""
        self.requests = Requests(
            self._runtime,
            self._keeper,
            self._submission,
            self._unbroken,
            fresh,
            check_open=self._check_open,
            state=self._state_objective,
        )
        """Requests that stand alone."""
        self.runs = Runs(
            self._runtime,
            self._keeper,
            self._submission,
            self._unbroken,
            fresh,
            check_open=self._check_open,
            state=self._state_objective,
        )
        """Sessions that are opened, or go on, in one request."""
        self.direct = Direct(
            self._runtime, self._dispatcher, self._keeper, fresh, state=self._state_objective
        )
        """Applications of a program in this process."""
        self._draining = False
        self._main: asyncio.Task[None] | None = None

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Rebuild open sessions from the store, begin to start the engines, take requests."""
        await self._keeper.recover()
        self._main = asyncio.create_task(self._run(), name="parrot-service")
        self._main.add_done_callback(_log_end)

    async def wait_ready(self) -> None:
        """Return when an engine is up; raise why when none can be."""
        while not any(member.status == "up" for member in self._fleet.members.values()):
            failures = [member.failure for member in self._fleet.members.values()]
            for failure in failures:
                if failure is not None and all(failures):
                    raise failure
            await self._fleet.wait_change()

    async def wait_stopped(self) -> None:
        """Return when the service has stopped by a fault of its own, or was closed: it works no more."""
        if self._main is not None:
            await asyncio.wait({self._main})

    async def drain(self, timeout_s: float) -> None:
        """Take no new work, wait for running calls up to `timeout_s`, and commit what they gave."""
        self._draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._dispatcher.wait_idle()
        except TimeoutError:
            logger.warning(
                "%d calls still run; they go on after the next start", self._dispatcher.num_running
            )
        await self._keeper.settle()

    async def close(self) -> None:
        """Stop everything and give it back. Idempotent."""
        self._draining = True
        main, self._main = self._main, None
        if main is not None:
            if not main.done():
                await self._keeper.settle()
                main.cancel()
            # If it ended by a fault, that was logged; the rest is closed all the same.
            await asyncio.gather(main, return_exceptions=True)
        await self._unbroken.join()
        self._journal.close_feeds()
        self._runtime.ahead.close()
        await self._fleet.close()
        await self._store.close()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._journal.run(), name="journal")
            group.create_task(self._dispatcher.run(), name="dispatcher")
            group.create_task(self._runtime.ahead.run(), name="ahead")
            group.create_task(self._runtime.retention.run(), name="retention")
            group.create_task(self._keeper.run(), name="keeper")
            group.create_task(self.functions.run(), name="functions")
            for member in self._fleet.members.values():
                group.create_task(self._fleet.supervise(member), name=f"engine {member.engine_id}")

    # ── sessions ────────────────────────────────────────────────────────────────────────────────────────────

    async def open_session(
        self,
        tenant: TenantId,
        request: SessionCreate,
        *,
        idempotency_key: str | None = None,
        body_hash: str = "",
        opaque: bool = False,
    ) -> SessionView:
        """Open an application run; the same key gives the same one again. `opaque`: its prompts will come
        without structure.
        """
        self._check_open()
        self._keeper.check_metadata(request.metadata)
        event = SessionOpened(
            session_id=session_id(self._fresh),
            tenant_id=tenant,
            name=request.name,
            objective=request.objective,
            deadline_s=request.deadline_s,
            metadata=dict(request.metadata),
            wall_s=self._clock.wall_s(),
            opaque=opaque,
        )
        work = self._keeper.open_session(event, key=idempotency_key, body_hash=body_hash)
        return session_view(await self._unbroken.run(work))

    def list_sessions(self, tenant: TenantId, *, limit: int = 100, after: str | None = None) -> SessionList:
        """The tenant's open sessions, newest first, a page at a time."""
        sessions = [s for s in reversed(self._keeper.sessions.values()) if s.tenant_id == tenant]
        start = next((i + 1 for i, s in enumerate(sessions) if s.session_id == after), 0)
        page = sessions[start : start + limit]
        more = start + limit < len(sessions)
        return SessionList(
            sessions=tuple(session_view(session) for session in page),
            next=page[-1].session_id if more and page else None,
        )

    def session(self, tenant: TenantId, sid: str) -> SessionView:
        """One session."""
        return session_view(self._keeper.find(tenant, sid))

    async def delete_session(self, tenant: TenantId, sid: str) -> None:
        """Cancel what runs, free everything, forget the session."""
        await self._unbroken.run(self._keeper.close_session(self._keeper.find(tenant, sid), "deleted"))

    # ── calls and variables ─────────────────────────────────────────────────────────────────────────────────

    async def submit(
        self,
        tenant: TenantId,
        sid: str,
        request: SubmitCalls,
        *,
        idempotency_key: str | None = None,
        body_hash: str = "",
    ) -> CallsAccepted:
        """Accept calls, all or none; they are durable when this returns."""
        self._check_open()
        session = self._touch(tenant, sid)
        work = self._submission.submit(session, request, idempotency_key=idempotency_key, body_hash=body_hash)
        return await self._unbroken.run(work)

    async def set_variable(self, tenant: TenantId, sid: str, ref: str, request: SetVariable) -> VariableView:
        """Give an input variable its value, once; the variable may be new if `ref` is a name."""
        self._check_open()
        session = self._touch(tenant, sid)
        return await self._unbroken.run(self._set_variable(session, ref, request.value))

    async def _set_variable(self, session: Session, ref: str, value: str) -> VariableView:
        tenant = session.tenant_id
        async with self._runtime.locks.hold(session):
            variable = session.graph.find_name(ref)
            if variable is None and (is_variable_id(ref) or not NAME_PATTERN.match(ref)):
                variable = session.graph.variable(ref)
            event = VariableSet(
                session_id=session.session_id,
                variable_id=variable.variable_id if variable else variable_id(self._fresh),
                name=variable.name if variable else ref,
                value=value,
            )
            session.graph.check_put(event.variable_id, value)
            if variable is not None and variable.state == "ready":
                return variable_view(session, variable)
            self._admission.check_storage(tenant)
            await self._journal.commit([event])
            self._keeper.check_alive(session)
            ready = session.graph.put(event.variable_id, event.name, event.value)
            self._runtime.bells.ring(event.variable_id)
            variable = session.graph.variables[event.variable_id]
            session.analysis.resolved(variable.variable_id)
            self._dispatcher.touch(session)
            self._dispatcher.make_ready(session, ready)
            look_ahead_from(self._runtime, session, variable)
            return variable_view(session, variable)

    async def get_variable(
        self,
        tenant: TenantId,
        sid: str,
        ref: str,
        *,
        wait_s: float = 0.0,
        objective: Objective | None = None,
    ) -> VariableView:
        """A variable; while it is pending, wait for it up to `wait_s` seconds (at most
        `limits.max_wait_s`).
        """
        session = self._touch(tenant, sid)
        variable = session.graph.variable(ref)
        self._state_objective(session, variable, objective)
        with self._reading(session):
            try:
                async with asyncio.timeout(min(wait_s, self._limits.max_wait_s)):
                    while self._is_pending(session, variable) and wait_s > 0:
                        await self._runtime.bells.wait(variable.variable_id)
                        self._keeper.check_alive(session)
            except TimeoutError:
                logger.debug("a long poll ended before its variable was ready")
        return variable_view(session, variable)

    async def stream_variable(
        self,
        tenant: TenantId,
        sid: str,
        ref: str,
        *,
        last_event_id: str | None = None,
        objective: Objective | None = None,
    ) -> AsyncGenerator[StreamItem, None]:
        """A variable's text as it is generated; see `streams.stream_variable`."""
        session = self._touch(tenant, sid)
        variable = session.graph.variable(ref)
        self._state_objective(session, variable, objective)
        items = stream_variable(self._runtime, session, variable, last_event_id)
        with self._admission.streaming(tenant), self._reading(session):
            async with aclosing(items):
                async for item in items:
                    yield item

    async def stream_session(
        self, tenant: TenantId, sid: str, *, last_event_id: str | None = None
    ) -> AsyncGenerator[StreamItem, None]:
        """Every event of a session; see `streams.stream_session`."""
        session = self._touch(tenant, sid)
        items = stream_session(self._runtime, self._store, session, last_event_id)
        with self._admission.streaming(tenant), self._reading(session):
            async with aclosing(items):
                async for item in items:
                    yield item

    async def cancel(self, tenant: TenantId, sid: str, request: CancelRequest) -> CancelAnswer:
        """Cancel calls, the producers of variables, and all that depends on either; with no list,
        everything.
        """
        session = self._touch(tenant, sid)
        graph = session.graph
        everything = request.calls is None and request.variables is None
        failure = Failure(code="cancelled", message="the call was cancelled")
        async with self._runtime.locks.hold(session):
            named = (graph.call(ref).call_id for ref in request.calls or ())
            calls = tuple(graph.calls) if everything else tuple(named)
            variables = tuple(graph.variable(ref).variable_id for ref in request.variables or ())
            branch = graph.branch(calls, variables)
            cancelled = self._dispatcher.fail_pending(
                session, branch, variables, failure, outcome="cancelled"
            )
        await self._journal.flush()
        return CancelAnswer(cancelled=cancelled)

    async def graph_by_steps(self, tenant: TenantId, sid: str) -> GraphView:
        """The session's application graph, made while others go on."""
        for view in graph_by_steps(self._keeper.find(tenant, sid), now_s=self._clock.wall_s()):
            if view is not None:
                return view
            await asyncio.sleep(0)
        raise AssertionError("the last step gives the view")

    def graph(self, tenant: TenantId, sid: str) -> GraphView:
        """The session's application graph."""
        return graph_view(self._keeper.find(tenant, sid), now_s=self._clock.wall_s())

    # ── operation ───────────────────────────────────────────────────────────────────────────────────────────

    def models(self) -> ModelList:
        """The models that can be asked for."""
        return ModelList(
            data=tuple(
                ModelView(id=model.name, max_model_len=model.context_tokens)
                for model in self._fleet.models.values()
            )
        )

    def model(self, name: str) -> ModelView:
        """One of them. Raises `NotFoundError` (`model_not_found`)."""
        for view in self.models().data:
            if view.id == name:
                return view
        raise NotFoundError("no model of that name is served here", code="model_not_found", param="model")

    def engines(self) -> EngineList:
        """The engines that have been up, and their load."""
        views = (engine_view(member) for member in self._fleet.members.values())
        return EngineList(engines=tuple(view for view in views if view is not None))

    def limits_view(self, tenant: TenantId | None = None) -> dict[str, int | float]:
        """Every limit by name, as it holds for a tenant, or for all who have none of their own."""
        return asdict(self._limits if tenant is None else self._admission.limits_of(tenant))

    def admit_request(self, tenant: TenantId) -> None:
        """Count a request that asks for something to be made; raises `OverLimitError` when they come too
        fast.
        """
        self._admission.check_request(tenant)

    def set_tenants(self, terms: Mapping[TenantId, TenantTerms], *, metered: bool) -> None:
        """What holds for single tenants from now on; rates and quotas hold at all only if `metered`."""
        self._admission.update(terms, metered=metered)

    def health(self) -> Health:
        """Whether calls can be taken now."""
        if self._draining:
            return Health(status="draining", version=self._version, detail="shutting down")
        if self._main is None or self._main.done():
            return Health(status="unavailable", version=self._version, detail="the service is not running")
        failure = self._journal.failure or self._admission.disk_shortage()
        if failure is not None:
            return Health(status="unavailable", version=self._version, detail=failure.message)
        members = self._fleet.members.values()
        if any(member.status == "up" for member in members):
            return Health(status="ok", version=self._version)
        failures = "; ".join(member.failure.message for member in members if member.failure)
        status = "unavailable" if failures else "starting"
        return Health(status=status, version=self._version, detail=failures or "engines are starting")

    def counters(self) -> Mapping[str, int]:
        """What has been counted since the start."""
        return {
            **self._runtime.counters,
            "dropped_resolutions": self._journal.num_dropped,
            "sessions_open": len(self._keeper.sessions),
            "calls_running": self._dispatcher.num_running,
            "calls_waiting": self._admission.occupancy.num_waiting,
            "waiters": self._runtime.bells.num_waiting,
            "prefixes_wanted": self._runtime.retention.num_wanted,
            "ahead_tokens": self._runtime.ahead.num_tokens,
            "piped_tokens": self._runtime.ahead.num_piped_tokens,
            "planning_faults": self._runtime.ahead.num_faults
            + self._runtime.retention.num_faults
            + self.functions.num_faults,
        }

    async def watch(self) -> AsyncGenerator[Event, None]:
        """Every event of every session from now on."""
        feed = self._journal.subscribe()
        try:
            while (item := await feed.next()) is not None:
                yield item.event
        finally:
            feed.close()

    # ── parts ───────────────────────────────────────────────────────────────────────────────────────────────

    def _check_open(self) -> None:
        if self._draining:
            raise UnavailableError("the service is shutting down", code="draining", data={"retry_after_s": 2})

    def _touch(self, tenant: TenantId, sid: str) -> Session:
        session = self._keeper.find(tenant, sid)
        session.touched_at = self._clock.wall_s()
        return session

    @contextmanager
    def _reading(self, session: Session) -> Iterator[None]:
        """A session that somebody waits for or follows is not idle."""
        session.num_readers += 1
        try:
            yield
        finally:
            session.num_readers -= 1
            session.touched_at = self._clock.wall_s()

    def _is_pending(self, session: Session, variable: Variable) -> bool:
        return variable.state == "pending" or variable.variable_id in session.uncommitted

    def _state_objective(self, session: Session, variable: Variable, objective: Objective | None) -> None:
        if objective is not None and variable.objective != objective and variable.state == "pending":
            variable.objective = objective
            session.analysis.stated(variable.variable_id, objective)
            self._dispatcher.touch(session)
            if session.silent:
                return
            self._journal.record(
                [
                    ObjectiveStated(
                        session_id=session.session_id, variable_id=variable.variable_id, objective=objective
                    )
                ]
            )


def _log_end(main: asyncio.Task[None]) -> None:
    error = None if main.cancelled() else main.exception()
    if error is not None:
        logger.critical("the service has stopped by a fault of its own\n%s", fault_trace(error))
