"""Accepting calls: check, bind, lower, commit, and only then change the graph."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from parrot.core.admission import Admission
from parrot.core.binding import Bound, bind
from parrot.core.estimates import text_tokens
from parrot.core.executor.dispatcher import Dispatcher
from parrot.core.executor.outlook import look_ahead
from parrot.core.executor.prompt_writer import LONG_TEXT_CHARS
from parrot.core.executor.runtime import Runtime
from parrot.core.graph import NewCall, Stages
from parrot.core.lowering import check_call, lower
from parrot.core.prompts import Model, Prompt, write_prompt
from parrot.core.recovery import new_calls, record_calls
from parrot.core.sessions import LOWERED, SentReply, Session, deadline_failure
from parrot.core.variables import Variable
from parrot.errors import (
    GoneError,
    InvalidError,
    NotFoundError,
    ParrotError,
    StoreError,
    TooLargeError,
    UnavailableError,
)
from parrot.ports.store import IdempotentReply, Store
from parrot.types.events import CallsSubmitted, SubmittedCall
from parrot.types.ids import CallId, IdSource, VariableId, is_ephemeral
from parrot.types.program import ConstantSegment, Program
from parrot.wire.answers import AcceptedCall, CallsAccepted, OutputView
from parrot.wire.requests import CallSpec, SubmitCalls, TokensParameter, ValueParameter, VariableParameter
from parrot.wire.runs import GivenVariable

CALL_CHARS = 500
"""Binding and checking a call takes about as long as tokenising so much text."""
MAX_BYTES_PER_TOKEN = 16
"""A prompt with more bytes than this for each token of the window is refused before it is tokenised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lowered:
    """What could be worked out of a call before it is accepted."""

    program: Program
    prompt: Prompt | None
    """None while inputs are pending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A submission that can be accepted."""

    event: CallsSubmitted
    """Tells of variables that were given with the calls, too."""
    calls: Sequence[NewCall]
    stages: Stages
    """As the graph found them, to which nothing is added until this is applied."""
    named: Mapping[str, VariableId]
    """Named variables that the submission creates or produces."""
    specs: Sequence[CallSpec]
    lowered: Sequence[_Lowered]
    reply: CallsAccepted

    @property
    def changes(self) -> bool:
        """Whether it brings anything that is to be stored."""
        return bool(self.event.calls or self.event.variables)


class Submission:
    """Takes submissions; those of one session come in one after the other."""

    def __init__(self, runtime: Runtime, dispatcher: Dispatcher, store: Store, fresh: IdSource) -> None:
        self._runtime = runtime
        self._dispatcher = dispatcher
        self._store = store
        self._fresh = fresh

    async def submit(
        self,
        session: Session,
        request: SubmitCalls,
        *,
        given: Sequence[GivenVariable] = (),
        wanted: Sequence[str] = (),
        idempotency_key: str | None,
        body_hash: str,
    ) -> CallsAccepted:
        """Accept all calls, and the variables that are given with them, or none. What it raises is about the
        whole request; `param` names the call. `wanted` variables must be there then.
        """
        async with self._runtime.locks.hold(session):
            known = await self._find_reply(session, idempotency_key)
            if known is not None:
                return _reply_again(known, body_hash)
            planned = await self.plan(session, request, given=given, wanted=wanted)
            if planned.changes:
                with self.reserving(session, planned):
                    await self._commit(session, planned.event, planned.reply, idempotency_key, body_hash)
                self.apply(session, planned)
            return planned.reply

    async def plan(
        self,
        session: Session,
        request: SubmitCalls,
        *,
        given: Sequence[GivenVariable] = (),
        wanted: Sequence[str] = (),
    ) -> Planned:
        """Check a submission to a session that is locked, or that nobody else knows; changes nothing."""
        self._runtime.admission.check_submission(session.tenant_id)
        request = self._runtime.functions.expand(session.tenant_id, request, self._runtime.limits)
        if _num_chars(session, request, given) > LONG_TEXT_CHARS:
            planned = await asyncio.to_thread(self._plan, session, request, given)
        else:
            planned = self._plan(session, request, given)
        for index, reference in enumerate(wanted):
            if reference not in planned.named and session.graph.find(reference) is None:
                raise NotFoundError(
                    "there is no such variable in this session", param=f"follow[{index}].variable"
                )
        return planned

    @contextmanager
    def reserving(self, session: Session, planned: Planned) -> Iterator["Reservation"]:
        """Take what the calls can cost while they are being committed; it is put back when they are not."""
        reservation = Reservation(self._runtime.admission, session, _most_tokens(planned))
        try:
            yield reservation
        except ParrotError:
            reservation.give_back()
            raise

    def _plan(self, session: Session, request: SubmitCalls, given: Sequence[GivenVariable]) -> Planned:
        """Check, bind and lower. Changes nothing, and reads only what nobody changes while the session's lock
        is held, but for states that move on: a thread can do it.
        """
        request = self._with_models(request)
        self._check_sizes(request)
        bound = bind(session.graph, request, fresh=self._fresh, limits=self._runtime.limits, given=given)
        event = CallsSubmitted(
            session_id=session.session_id,
            calls=bound.calls,
            variables=bound.variables,
            wall_s=self._runtime.clock.wall_s(),
        )
        calls = new_calls(event)
        stages = session.graph.check(calls, event.variables)
        lowered = self._lower_all(session, request.calls, bound)
        reply = _accepted(session, bound)
        return Planned(
            event=event,
            calls=calls,
            stages=stages,
            named=bound.named,
            specs=request.calls,
            lowered=lowered,
            reply=reply,
        )

    async def _find_reply(self, session: Session, key: str | None) -> SentReply | None:
        if key is None:
            return None
        sent = session.replies.get(key)
        if sent is None and session.recovered:
            stored = await self._store.find_idempotent(session.tenant_id, _scope(session), key)
            if stored is not None:
                return SentReply(body_hash=stored.body_hash, reply=stored.reply)
        return sent

    def _with_models(self, request: SubmitCalls) -> SubmitCalls:
        """Write into each call the model it will run on."""
        models = self._runtime.fleet.models
        if not models and request.calls:
            raise UnavailableError(
                "no engine is up yet", code="engine_unavailable", data={"retry_after_s": 1}
            )
        calls: list[CallSpec] = []
        for index, call in enumerate(request.calls):
            name = call.model
            if name is None:
                if len(models) > 1:
                    message = f"name a model: {', '.join(sorted(models))} are served here"
                    raise InvalidError(message, code="missing_field", param=f"calls[{index}].model")
                name = next(iter(models))
            elif name not in models:
                message = f"no model of that name is served here; there is {', '.join(sorted(models))}"
                raise NotFoundError(message, code="model_not_found", param=f"calls[{index}].model")
            calls.append(call if call.model == name else call.model_copy(update={"model": name}))
        return SubmitCalls.model_construct(calls=tuple(calls))

    def _check_sizes(self, request: SubmitCalls) -> None:
        limits = self._runtime.limits
        for index, call in enumerate(request.calls):
            for placeholder, parameter in call.parameters.items():
                if isinstance(parameter, ValueParameter):
                    size = len(parameter.value.encode())
                    if size > limits.max_value_bytes:
                        raise TooLargeError(
                            f"a value has {size:,} bytes, the limit is {limits.max_value_bytes:,}",
                            param=f"calls[{index}].parameters.{placeholder}.value",
                            data={"limit_bytes": limits.max_value_bytes},
                        )

    def _lower_all(self, session: Session, specs: Sequence[CallSpec], bound: Bound) -> list[_Lowered]:
        """Lower every call, and tokenise those whose inputs are all there, so that what cannot work is
        refused now.
        """
        values = _Values(session, bound)
        lowered: list[_Lowered] = []
        for index, (spec, call) in enumerate(zip(specs, bound.calls, strict=True)):
            try:
                lowered.append(self._lower_one(session, spec, call, values))
            except ParrotError as error:
                if error.param is None or not error.param.startswith("calls["):
                    error.param = f"calls[{index}]" + (f".{error.param}" if error.param else "")
                raise
        return lowered

    def _lower_one(
        self, session: Session, spec: CallSpec, call: SubmittedCall, values: "_Values"
    ) -> _Lowered:
        model = self._runtime.fleet.models[spec.model or ""]
        program = lower(
            check_call(spec, self._runtime.limits),
            inputs=call.inputs,
            outputs=call.outputs,
            model=model.name,
            tokenizer=model.tokenizer,
            opaque=session.opaque,
            published=self._runtime.config.shared_prefixes,
            add_bos=not any(isinstance(p, TokensParameter) for p in spec.parameters.values()),
        )
        if not all(values.is_ready(variable_id) for variable_id in call.inputs.values()):
            return _Lowered(program=program, prompt=None)
        self._check_bytes(program, model, values)
        prompt = write_prompt(
            program,
            model,
            values.get,
            tenant_id=session.tenant_id,
            salt=self._runtime.config.salt,
            cache=self._runtime.tokens,
        )
        return _Lowered(program=program, prompt=prompt)

    def _check_bytes(self, program: Program, model: Model, values: "_Values") -> None:
        size = sum(
            len((values.get(segment.variable_id).value or "").encode()) for segment in program.inputs()
        )
        limit = MAX_BYTES_PER_TOKEN * model.context_tokens
        if size > limit:
            message = (
                f"the inputs have {size:,} bytes; a window of {model.context_tokens:,} tokens takes {limit:,}"
            )
            raise TooLargeError(message, param="parameters", data={"limit_bytes": limit})

    async def _commit(
        self, session: Session, event: CallsSubmitted, reply: CallsAccepted, key: str | None, body_hash: str
    ) -> None:
        if not is_ephemeral(session.session_id):
            self._runtime.admission.check_storage(session.tenant_id)
        if key is None:
            await self._runtime.journal.commit([event])
        else:
            text = reply.model_dump_json()
            idempotent = IdempotentReply(
                tenant_id=session.tenant_id,
                scope=_scope(session),
                key=key,
                body_hash=body_hash,
                reply=text,
            )
            outcome = await self._runtime.journal.commit([event], idempotent=idempotent)
            if outcome.existing is not None:
                # An earlier try was stored although the store said that it was not: a restart reads it.
                raise StoreError("the store holds an earlier submission under this key that is not running")
            session.replies[key] = SentReply(body_hash=body_hash, reply=text)
        if session.closing:
            raise GoneError("the session was deleted")

    def apply(self, session: Session, planned: Planned) -> None:
        """Change the session as was planned, after it was committed and before anything else is."""
        event = planned.event
        record_calls(session, event, planned.specs)
        for call, made in zip(event.calls, planned.lowered, strict=True):
            record = session.records[call.call_id]
            record.program, record.prompt = made.program, made.prompt
            if record.spec.messages is None:
                record.spec = LOWERED
            record.num_prompt_tokens = made.prompt.num_tokens if made.prompt else 0
        added = session.graph.add(planned.calls, event.variables, checked=planned.stages)
        session.analysis.added(call.call_id for call in event.calls)
        self._runtime.counters["calls_submitted"] += len(event.calls)
        self._dispatcher.spread(session, added.failed)
        self._dispatcher.make_ready(session, added.ready)
        look_ahead(self._runtime, session, (call.call_id for call in event.calls))
        if session.deadline_passed:
            self._dispatcher.fail_pending(
                session,
                [call.call_id for call in event.calls],
                [variable.variable_id for variable in event.variables],
                deadline_failure(session),
            )


class Reservation:
    """What the calls of a submission can cost, taken from their tenant's tokens."""

    def __init__(self, admission: Admission, session: Session, tokens: Mapping[CallId, float]) -> None:
        self._admission = admission
        self._session_id = session.session_id
        self._tokens = tokens
        admission.reserve(session.tenant_id, session.session_id, tokens)

    def give_back(self) -> None:
        """The calls were not accepted after all."""
        self._admission.release(self._session_id, self._tokens)


class _Values:
    """The variables a submission can see: the session's, and those it brings."""

    def __init__(self, session: Session, bound: Bound) -> None:
        self._known = session.graph.variables
        self._new = {
            new.variable_id: Variable(
                variable_id=new.variable_id,
                name=new.name,
                state="pending" if new.value is None else "ready",
                value=new.value,
            )
            for new in bound.variables
        }
        for variable_id, given in bound.tokens.items():
            variable = self._new[variable_id]
            variable.token_ids, variable.model_hash = given.token_ids, given.model_hash

    def get(self, variable_id: VariableId) -> Variable:
        """One of them."""
        return self._new.get(variable_id) or self._known[variable_id]

    def is_ready(self, variable_id: VariableId) -> bool:
        """Whether its value is there."""
        return self.get(variable_id).state == "ready"


def _num_chars(session: Session, request: SubmitCalls, given: Sequence[GivenVariable]) -> int:
    """A measure of the work that a submission is: its text, values of variables that it names included."""
    num_chars = sum(len(variable.value) for variable in given)
    for call in request.calls:
        num_chars += CALL_CHARS + len(call.template or "")
        num_chars += sum(len(message.content) for message in call.messages or ())
        for parameter in call.parameters.values():
            if isinstance(parameter, ValueParameter):
                num_chars += len(parameter.value)
            elif isinstance(parameter, VariableParameter):
                known = session.graph.find(parameter.variable)
                num_chars += len(known.value or "") if known else 0
    return num_chars


def _most_tokens(planned: Planned) -> dict[CallId, float]:
    """The most that each call can cost, as far as can be known while inputs are missing."""
    most: dict[CallId, float] = {}
    for call, made in zip(planned.event.calls, planned.lowered, strict=True):
        if made.prompt is not None:
            most[call.call_id] = made.prompt.max_tokens
        else:
            texts = (s.text for s in made.program.segments if isinstance(s, ConstantSegment))
            outputs = (output.sampling.max_tokens for output in made.program.outputs())
            most[call.call_id] = sum(map(text_tokens, texts)) + sum(outputs)
    return most


def _scope(session: Session) -> str:
    return f"calls/{session.session_id}"


def _reply_again(sent: SentReply, body_hash: str) -> CallsAccepted:
    if sent.body_hash != body_hash:
        raise InvalidError(
            "this idempotency key was used for another body",
            code="idempotency_mismatch",
            param="Idempotency-Key",
        )
    return CallsAccepted.model_validate_json(sent.reply)


def _accepted(session: Session, bound: Bound) -> CallsAccepted:
    names = {variable.variable_id: variable.name for variable in bound.variables}
    known = session.graph.variables
    return CallsAccepted(
        calls=tuple(
            AcceptedCall(
                call_id=call.call_id,
                name=call.name,
                outputs={
                    placeholder: OutputView(
                        variable_id=variable_id,
                        name=names[variable_id] if variable_id in names else known[variable_id].name,
                    )
                    for placeholder, variable_id in call.outputs.items()
                },
            )
            for call in bound.calls
        )
    )
