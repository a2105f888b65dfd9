"""Requests that stand alone, as clients of other servers send them: each an application of one call.

    request ─▶ ephemeral session ─▶ one call for each output that is wanted ─▶ outcomes ─▶ nothing is left

Such a session is never stored: whoever sent the request waits for it, and when they leave all of it is freed.
Its prompts have no structure, so what they share with others is found block by block.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import cast

from parrot.core.executor.applications import Applications
from parrot.core.executor.keeper import Keeper
from parrot.core.executor.runtime import Runtime
from parrot.core.executor.streams import closed_error, stream_variable
from parrot.core.executor.submission import Submission
from parrot.core.executor.unbroken import Unbroken
from parrot.core.lowering import check_call, lower
from parrot.core.prompts import Model, write_prompt
from parrot.core.sessions import ALONE, OutputRecord, PartOf, Session
from parrot.core.variables import Variable
from parrot.errors import InvalidError, NotFoundError, ParrotError, UnavailableError
from parrot.ports.engine import FinishReason, TokenLogprob
from parrot.types.events import SessionOpened
from parrot.types.ids import CallId, IdSource, SessionId, TenantId, VariableId, ephemeral_session_id
from parrot.types.objective import Objective
from parrot.wire.answers import CallsAccepted
from parrot.wire.errors import from_failure
from parrot.wire.requests import (
    CallSpec,
    MessageSpec,
    OutputParameter,
    SubmitCalls,
    TokensParameter,
    ValueParameter,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some more of one output."""

    text: str
    """What was added; not yet final, but never taken back."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens that came meanwhile. Text can lag behind tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One output that is complete."""

    text: str
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_shared_tokens: int
    """Of the prompt, taken from what was computed before."""
    num_tokens: int
    logprobs: tuple[TokenLogprob, ...]


class RequestRun:
    """Calls that somebody waits for, in the order in which they were asked for. Each has one output."""

    def __init__(
        self, runtime: Runtime, session: Session, calls: Sequence[tuple[CallId, VariableId]]
    ) -> None:
        self._runtime = runtime
        self._session = session
        self._calls = tuple(calls)

    @property
    def session_id(self) -> SessionId:
        """Where the calls are."""
        return self._session.session_id

    @property
    def calls(self) -> tuple[tuple[CallId, VariableId], ...]:
        """Each call and its output."""
        return self._calls

    @property
    def model(self) -> str:
        """The model that the calls run on."""
        return self._session.records[self._calls[0][0]].model

    @property
    def created_at(self) -> float:
        """When the session was opened, in seconds of the wall clock."""
        return self._session.created_at

    @property
    def ended_at(self) -> float | None:
        """When the first call was through, in seconds of the wall clock; None when that is not known."""
        return self._session.records[self._calls[0][0]].done_at

    @property
    def metadata(self) -> Mapping[str, str]:
        """The session's."""
        return self._session.metadata

    @property
    def messages(self) -> tuple[MessageSpec, ...]:
        """The first call's, as they were submitted."""
        return self._session.records[self._calls[0][0]].spec.messages or ()

    @property
    def begun(self) -> bool:
        """Whether an engine works on the first call, or has."""
        return self._session.records[self._calls[0][0]].placed_at is not None

    def is_ended(self, index: int) -> bool:
        """Whether an output is complete, or will never be."""
        _, variable_id = self._calls[index]
        variable = self._session.graph.variables[variable_id]
        return variable.state != "pending" and variable_id not in self._session.uncommitted

    @property
    def num_outputs(self) -> int:
        """How many outputs there will be."""
        return len(self._calls)

    async def outcome(self, index: int) -> Outcome:
        """An output, when it is complete; raises why there will be none."""
        call_id, variable_id = self._calls[index]
        variable = self._session.graph.variables[variable_id]
        with _reading(self._session):
            while variable.state == "pending" or variable_id in self._session.uncommitted:
                if self._session.closing:
                    raise closed_error(self._session)
                await self._runtime.bells.wait(variable_id)
        return self._outcome(call_id, variable)

    async def follow(self, index: int) -> AsyncGenerator[Piece, None]:
        """An output as it is generated, to its end; raises why it has none.

        When another attempt takes over, what it repeats is not given again.

        Raises:
            ParrotError: `stream_reset`: it writes something else than was given already.
        """
        call_id, variable_id = self._calls[index]
        variable = self._session.graph.variables[variable_id]
        text = _Repeatable()
        num_told = 0
        items = stream_variable(self._runtime, self._session, variable, None)
        with _reading(self._session):
            async with aclosing(items):
                async for item in items:
                    if item.event == "reset":
                        text.begin_again()
                        continue
                    if item.event == "failed":
                        break
                    new = text.add(cast("str", item.data["text"])) if item.event == "delta" else ""
                    told = self._told(call_id, variable_id).logprobs
                    if new or len(told) > num_told:
                        yield Piece(text=new, logprobs=tuple(told[num_told:]))
                        num_told = max(num_told, len(told))
        self._outcome(call_id, variable)

    def _told(self, call_id: CallId, variable_id: VariableId) -> OutputRecord:
        return self._session.records[call_id].outputs.get(variable_id) or OutputRecord()

    def _outcome(self, call_id: CallId, variable: Variable) -> Outcome:
        if variable.failure is not None:
            raise from_failure(variable.failure)
        record, told = self._session.records[call_id], self._told(call_id, variable.variable_id)
        return Outcome(
            text=variable.value or "",
            finish_reason=told.finish_reason or "stop",
            num_prompt_tokens=record.num_prompt_tokens,
            num_shared_tokens=record.num_shared_tokens,
            num_tokens=told.num_tokens,
            logprobs=tuple(told.logprobs),
        )


class _Repeatable:
    """Text that has been given away, and must come again as it was when another attempt writes it."""

    def __init__(self) -> None:
        self._given: list[str] = []
        self._expected = ""
        """What is still to be repeated."""

    def begin_again(self) -> None:
        self._expected = "".join(self._given)

    def add(self, text: str) -> str:
        """The part of `text` that is new."""
        repeated = min(len(text), len(self._expected))
        if text[:repeated] != self._expected[:repeated]:
            raise ParrotError(
                "the engine was lost, and another wrote something else than was sent already",
                code="stream_reset",
            )
        self._expected = self._expected[repeated:]
        new = text[repeated:]
        if new:
            self._given.append(new)
        return new


class Requests:
    """Runs requests that stand alone."""

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
        self._applications = Applications(runtime)
        self._state = state
        self._check_open = check_open
        self._runtime = runtime
        self._keeper = keeper
        self._submission = submission
        self._unbroken = unbroken
        self._fresh = fresh

    @asynccontextmanager
    async def run(
        self,
        tenant: TenantId,
        calls: SubmitCalls,
        *,
        name: str,
        objective: Objective | None = None,
        metadata: Mapping[str, str] | None = None,
        part_of: PartOf = ALONE,
        opaque: bool = True,
    ) -> AsyncIterator[RequestRun]:
        """Calls with one output each, accepted, until the block ends; then whatever is left of them is
        stopped and freed. `opaque`: their prompts come without structure. Raises as a submission does.
        """
        self._check_open()
        session = self._keeper.open_ephemeral(
            SessionOpened(
                session_id=ephemeral_session_id(self._fresh),
                tenant_id=tenant,
                name=name,
                objective=objective,
                deadline_s=None,
                metadata=metadata or {},
                wall_s=self._runtime.clock.wall_s(),
                opaque=opaque,
            )
        )
        session.part_of = part_of
        self._applications.enter(session)
        try:
            accepted = await self._submission.submit(session, calls, idempotency_key=None, body_hash="")
            yield self._running(session, accepted)
        finally:
            self._applications.leave(session)
            self._keeper.drop(session)

    async def run_in(
        self, tenant: TenantId, sid: str, calls: SubmitCalls, *, objective: Objective | None = None
    ) -> RequestRun:
        """Calls with one output each, accepted in a session that is there already: they are durable, and go
        on when nobody waits for them any more. `objective` says how they are waited for. Raises as a
        submission does.
        """
        self._check_open()
        session = self._keeper.find(tenant, sid)
        return await self._unbroken.run(self._submit_in(session, calls, objective))

    async def _submit_in(
        self, session: Session, calls: SubmitCalls, objective: Objective | None
    ) -> RequestRun:
        accepted = await self._submission.submit(session, calls, idempotency_key=None, body_hash="")
        run = self._running(session, accepted)
        for _, variable_id in run.calls:
            self._state(session, session.graph.variables[variable_id], objective)
        return run

    def find(self, tenant: TenantId, sid: str) -> RequestRun:
        """What `run_in` gave, of a session in which it was called once, after a restart too.

        Raises:
            NotFoundError, GoneError: there is no such session; or nothing was asked for in it.
        """
        session = self._keeper.find(tenant, sid)
        calls = [
            (call.call_id, output)
            for call in session.graph.calls.values()
            for output in call.outputs.values()
        ]
        if not calls:
            raise NotFoundError("nothing was asked for in this session")
        return RequestRun(self._runtime, session, calls)

    def _running(self, session: Session, accepted: CallsAccepted) -> RequestRun:
        calls = [
            (CallId(call.call_id), VariableId(output.variable_id))
            for call in accepted.calls
            for output in call.outputs.values()
        ]
        return RequestRun(self._runtime, session, calls)

    def model(self, name: str | None) -> Model:
        """A served model; without a name the only one.

        Raises:
            NotFoundError: `model_not_found`.
            InvalidError: `missing_field`, when several are served.
            UnavailableError: `engine_unavailable`, none is up yet.
        """
        models = self._runtime.fleet.models
        if not models:
            raise UnavailableError(
                "no engine is up yet", code="engine_unavailable", data={"retry_after_s": 1}
            )
        served = ", ".join(sorted(models))
        if name is None and len(models) > 1:
            raise InvalidError(f"name a model: {served} are served here", code="missing_field", param="model")
        found = next(iter(models.values())) if name is None else models.get(name)
        if found is None:
            message = f"no model of that name is served here; there is {served}"
            raise NotFoundError(message, code="model_not_found", param="model")
        return found

    def num_prompt_tokens(self, tenant: TenantId, call: CallSpec) -> int:
        """The tokens of a call's prompt, whose inputs are all given.

        Raises as a submission does.
        """
        model = self.model(call.model)
        values = {
            VariableId(placeholder): _given(VariableId(placeholder), parameter)
            for placeholder, parameter in call.parameters.items()
            if isinstance(parameter, ValueParameter)
        }
        program = lower(
            check_call(call, self._runtime.limits),
            inputs={placeholder: placeholder for placeholder in values},
            outputs={
                placeholder: VariableId(placeholder)
                for placeholder, parameter in call.parameters.items()
                if isinstance(parameter, OutputParameter)
            },
            model=model.name,
            tokenizer=model.tokenizer,
            add_bos=not any(isinstance(p, TokensParameter) for p in call.parameters.values()),
        )
        prompt = write_prompt(
            program,
            model,
            values.__getitem__,
            tenant_id=tenant,
            salt=self._runtime.config.salt,
            cache=self._runtime.tokens,
        )
        return prompt.num_tokens


def _given(variable_id: VariableId, parameter: ValueParameter) -> Variable:
    variable = Variable(variable_id=variable_id, state="ready", value=parameter.value)
    if isinstance(parameter, TokensParameter):
        variable.token_ids, variable.model_hash = parameter.token_ids, parameter.model_hash
    return variable


@contextmanager
def _reading(session: Session) -> Iterator[None]:
    session.num_readers += 1
    try:
        yield
    finally:
        session.num_readers -= 1
