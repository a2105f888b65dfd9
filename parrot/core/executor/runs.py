"""Runs in one request: a session is opened or continued, calls are submitted, variables are followed.

    request ─▶ plan ─▶ one commit: SessionOpened, CallsSubmitted ─▶ accepted ─▶ delta* ─▶ ready or failed
                                                                        └── of every variable that is followed

Under an idempotency key the same request gives the same session and calls again, and follows them anew.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from typing import cast

from parrot.core.executor.keeper import Keeper
from parrot.core.executor.runtime import Runtime
from parrot.core.executor.streams import StreamItem, VariableStream, closed_error
from parrot.core.executor.submission import Submission
from parrot.core.executor.unbroken import Unbroken
from parrot.core.sessions import Session
from parrot.core.variables import Variable
from parrot.core.views import session_view, variable_view
from parrot.errors import InvalidError, ParrotError
from parrot.ports.store import IdempotentReply
from parrot.types.events import Event, SessionOpened
from parrot.types.ids import IdSource, TenantId, VariableId, session_id
from parrot.types.objective import Objective
from parrot.wire.answers import Answer, CallsAccepted, OutputView
from parrot.wire.requests import SubmitCalls
from parrot.wire.runs import FollowSpec, RunAccepted, RunCreate, RunRequest

SCOPE = "runs"
"""Of the keys under which runs are opened; one that continues a session has the key of a submission to it."""


class _Opened(Answer):
    """What is kept under the key of a run that was opened."""

    session_id: str
    accepted: CallsAccepted


class Runs:
    """Opens and continues sessions, each time in one request."""

    def __init__(
        self,
        runtime: Runtime,
        keeper: Keeper,
        submission: Submission,
        unbroken: Unbroken,
        fresh: IdSource,
        *,
        check_open: Callable[[], None],
        state: Callable[[Session, Variable, Objective | None], None],
    ) -> None:
        """`check_open` raises when nothing new is taken; `state` notes how a variable is waited for."""
        self._runtime = runtime
        self._keeper = keeper
        self._submission = submission
        self._unbroken = unbroken
        self._fresh = fresh
        self._check_open = check_open
        self._state = state

    async def open(
        self, tenant: TenantId, request: RunCreate, *, idempotency_key: str | None = None, body_hash: str = ""
    ) -> AsyncGenerator[StreamItem, None]:
        """Open a session with what `request` says: all of it, or nothing.

        The first item is `accepted`; what refuses the request is raised before it. Then come the values of
        what is followed, each as it is ready.

        Raises:
            ParrotError: as opening a session and submitting calls to it do; `not_found` for a variable to
                follow that is not there.
        """
        self._check_open()
        with self._streaming(tenant, request.follow):
            opening = self._open(tenant, request, idempotency_key, body_hash)
            session, accepted = await self._unbroken.run(opening)
            async with aclosing(self._follow(session, request, accepted)) as items:
                async for item in items:
                    yield item

    async def go_on(
        self,
        tenant: TenantId,
        sid: str,
        request: RunRequest,
        *,
        idempotency_key: str | None = None,
        body_hash: str = "",
    ) -> AsyncGenerator[StreamItem, None]:
        """The same in a session that is there."""
        self._check_open()
        session = self._keeper.find(tenant, sid)
        with self._streaming(tenant, request.follow):
            work = self._submission.submit(
                session,
                SubmitCalls.model_construct(calls=request.calls),
                given=request.variables,
                wanted=[one.variable for one in request.follow],
                idempotency_key=idempotency_key,
                body_hash=body_hash,
            )
            accepted = await self._unbroken.run(work)
            async with aclosing(self._follow(session, request, accepted)) as items:
                async for item in items:
                    yield item

    async def _open(
        self, tenant: TenantId, request: RunCreate, key: str | None, body_hash: str
    ) -> tuple[Session, CallsAccepted]:
        opened = self._opening(tenant, request)
        session = self._keeper.prepare(opened)
        try:
            planned = await self._submission.plan(
                session,
                SubmitCalls.model_construct(calls=request.calls),
                given=request.variables,
                wanted=[one.variable for one in request.follow],
            )
        except ParrotError:
            # What was accepted once is answered so again, also when it could not be accepted now.
            known = await self._keeper.find_reply(tenant, SCOPE, key)
            if known is None:
                raise
            return self._opened_before(known, body_hash)
        reply = None
        if key is not None:
            kept = _Opened(session_id=opened.session_id, accepted=planned.reply)
            reply = IdempotentReply(
                tenant_id=tenant, scope=SCOPE, key=key, body_hash=body_hash, reply=kept.model_dump_json()
            )
        events: list[Event] = [opened, *([planned.event] if planned.changes else [])]
        with self._submission.reserving(session, planned) as reservation:
            known = await self._keeper.commit_opening(session, events, reply)
            if known is not None:
                reservation.give_back()
                return self._opened_before(known, body_hash)
        if planned.changes:
            self._submission.apply(session, planned)
        return session, planned.reply

    def _opening(self, tenant: TenantId, request: RunCreate) -> SessionOpened:
        self._keeper.check_metadata(request.session.metadata)
        return SessionOpened(
            session_id=session_id(self._fresh),
            tenant_id=tenant,
            name=request.session.name,
            objective=request.session.objective,
            deadline_s=request.session.deadline_s,
            metadata=dict(request.session.metadata),
            wall_s=self._runtime.clock.wall_s(),
        )

    def _opened_before(self, known: IdempotentReply, body_hash: str) -> tuple[Session, CallsAccepted]:
        if known.body_hash != body_hash:
            raise InvalidError(
                "this idempotency key was used for another body",
                code="idempotency_mismatch",
                param="Idempotency-Key",
            )
        kept = _Opened.model_validate_json(known.reply)
        return self._keeper.find(known.tenant_id, kept.session_id), kept.accepted

    @contextmanager
    def _streaming(self, tenant: TenantId, follow: Sequence[FollowSpec]) -> Iterator[None]:
        """One that tells text as it comes counts as a stream; one that waits for values does not."""
        with ExitStack() as stack:
            if any(one.deltas for one in follow):
                stack.enter_context(self._runtime.admission.streaming(tenant))
            yield

    async def _follow(
        self, session: Session, request: RunRequest, accepted: CallsAccepted
    ) -> AsyncGenerator[StreamItem, None]:
        session.touched_at = self._runtime.clock.wall_s()
        graph = session.graph
        followed: dict[VariableId, VariableStream | Variable] = {}
        for one in request.follow:
            variable = graph.variable(one.variable)
            self._state(session, variable, one.objective)
            followed[variable.variable_id] = (
                VariableStream(self._runtime, session, variable) if one.deltas else variable
            )
        given = [graph.variable(one.variable) for one in request.variables]
        view = RunAccepted(
            session=session_view(session),
            variables=tuple(OutputView(variable_id=v.variable_id, name=v.name) for v in given),
            calls=accepted.calls,
        )
        session.num_readers += 1
        try:
            with self._runtime.bells.listening(followed) as bells:
                yield StreamItem(event="accepted", data=view.model_dump(mode="json"), event_id=None)
                rung = list(followed)
                while followed:
                    for variable_id in rung:
                        if session.closing:
                            raise closed_error(session)
                        stream = followed.get(variable_id)
                        if stream is None:
                            continue
                        items, is_last = self._news(session, stream)
                        for item in items:
                            yield item
                        if is_last:
                            del followed[variable_id]
                    if followed:
                        rung = cast("list[VariableId]", await bells.next())
        finally:
            session.num_readers -= 1
            session.touched_at = self._runtime.clock.wall_s()

    def _news(
        self, session: Session, followed: VariableStream | Variable
    ) -> tuple[Sequence[StreamItem], bool]:
        """What is new of a variable, and whether that was the last."""
        if isinstance(followed, Variable):
            view = variable_view(session, followed)
            if view.state == "pending":
                return (), False
            data = view.model_dump(mode="json", exclude_none=True)
            return (StreamItem(event=view.state, data=data, event_id=None),), True
        items, is_last = followed.news()
        named = {"variable_id": followed.variable.variable_id}
        return [
            StreamItem(event=item.event, data={**named, **item.data}, event_id=None) for item in items
        ], is_last
