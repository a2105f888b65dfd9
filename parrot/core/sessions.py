"""Sessions and the bookkeeping of their calls: who, when, where, how often. The graph knows nothing of
this.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import msgspec

from parrot.core.analysis.application import ApplicationAnalysis
from parrot.core.estimates import CallShape, FunctionKey, OutputLengths, OutputShape, shape_of, text_tokens
from parrot.core.graph import ApplicationGraph
from parrot.core.prompts import Leading, Prompt
from parrot.ports.engine import FinishReason, TokenLogprob
from parrot.types.events import Failure
from parrot.types.ids import CallId, EngineId, PrefixKey, SessionId, TenantId, VariableId
from parrot.types.objective import CallObjective, Objective
from parrot.types.program import Program
from parrot.types.sampling import Sampling
from parrot.wire.requests import CallSpec, OutputParameter


class FilledAhead(msgspec.Struct, kw_only=True):
    """What of one context was filled before somebody asked for it. Times are seconds of the wall clock."""

    first: int
    """Its tokens from here on were filled ahead, by it or by the contexts it forks from."""
    began_at: float
    ended_at: float | None = None


class OutputRecord(msgspec.Struct, kw_only=True):
    """How one output came to be, in the last attempt at it."""

    num_tokens: int = 0
    finish_reason: FinishReason | None = None
    """None while it is being generated."""
    logprobs: list[TokenLogprob] = msgspec.field(default_factory=list)
    """Of the tokens so far, when they were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a context held when it became cache."""

    prompt: Prompt
    keys: tuple[PrefixKey, ...]
    """Of the prompt, with its first answer."""


LOWERED = CallSpec(template="")
"""Stands for what a client sent once that is lowered, which takes more room than all else of a call."""


class CallRecord(msgspec.Struct, kw_only=True):
    """One call's history. Times are seconds of the wall clock."""

    call_id: CallId
    name: str
    spec: CallSpec
    """`LOWERED` when its program says all that is needed of it."""
    model: str
    submitted_at: float
    program: Program | None = None
    shape: CallShape | None = None
    """Of its program."""
    prompt: Prompt | None = None
    leading: Leading | None = None
    """The beginning of its prompt, while it waits for inputs and that was asked for."""
    ready_at: float | None = None
    placed_at: float | None = None
    first_token_at: float | None = None
    done_at: float | None = None
    attempt: int = 0
    num_failures: int = 0
    """Attempts that an engine took and did not finish."""
    num_crashes: int = 0
    """Of these, the ones in which the engine went down and it may have been the call that did it."""
    num_uncharged: int = 0
    """Attempts that ended because somebody stopped or killed the engine."""
    lost_after_tokens: int | None = None
    """Of a call under suspicion, when that is known: how many tokens it had generated when its engine went
    down."""
    engine_id: EngineId | None = None
    why: str = ""
    num_prompt_tokens: int = 0
    num_shared_tokens: int = 0
    num_output_tokens: int = 0
    num_ahead_tokens: int = 0
    """Of the shared tokens, those that were filled while the call waited for its inputs."""
    filled_ahead: FilledAhead | None = None
    """Of the context that it forked from."""
    priority: int | None = None
    """What engines are told, lower first; None when calls run as they come."""
    objective: CallObjective | None = None
    """What it was placed under, or waits under."""
    failure: Failure | None = None
    held: Held | None = None
    """Of a request that is a part of something, once it was answered."""
    outputs: dict[VariableId, OutputRecord] = msgspec.field(default_factory=dict)
    """Of what has begun to be generated."""
    stop: Callable[[str], None] | None = None
    """While an attempt is under way: end it for a reason, so that the call is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentReply:
    """What was answered under an idempotency key."""

    body_hash: str
    reply: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOf:
    """What a client says of a request that stands alone: what it is a part of, and how it is wanted."""

    application: str | None = None
    """Requests that name the same one are one application's."""
    chain: str | None = None
    """Requests that name the same one follow each other, each with what was before in its prompt."""
    prefix: str | None = None
    """Prompts of requests that name the same one begin alike."""
    group: str | None = None
    """Wanted together with others of the application: their joint completion matters."""
    urgency_s: float = 0.0
    """Wanted so much earlier than it seems; later when negative."""
    keep_s: float | None = None
    """How long the beginnings of prompts are kept that are marked as such; None for a usual time."""
    is_last: bool = False
    """No request of its chain comes after it."""


ALONE = PartOf()
"""Nothing was said."""


@dataclass(slots=True, kw_only=True)
class Session:
    """One run of one application."""

    session_id: SessionId
    tenant_id: TenantId
    name: str | None
    objective: Objective | None
    deadline_s: float | None
    metadata: Mapping[str, str]
    created_at: float
    """Wall clock, seconds."""
    graph: ApplicationGraph
    touched_at: float
    """Wall clock, seconds: the last time its owner did something with it."""
    analysis: ApplicationAnalysis = field(init=False)
    """What is deduced from the graph; told of every change of it, afterwards."""
    num_readers: int = 0
    """Long polls and streams that are under way."""
    deadline_passed: bool = False
    """What was pending when the deadline passed has failed."""
    opaque: bool = False
    """Its prompts come without structure; see `Program.opaque`."""
    part_of: PartOf = ALONE
    """Of a session that is a single request."""
    since_at: float | None = None
    """When the first request of its application came, if that is known; wall clock, seconds."""
    silent: bool = False
    """Nobody but who opened it learns what happens in it: no events are made of that."""
    recovered: bool = False
    """It was rebuilt from the store; replies to earlier requests are known there only."""
    records: dict[CallId, CallRecord] = field(default_factory=dict)
    uncommitted: set[VariableId] = field(default_factory=set)
    """Resolved in memory, not yet in the store: consumers go on with them, readers do not see them."""
    attempts: dict[VariableId, int] = field(default_factory=dict)
    """The attempt that resolved each generated variable."""
    raw_texts: dict[VariableId, str] = field(default_factory=dict)
    """The text as generated, of variables whose transforms made another value of it."""
    replies: dict[str, SentReply] = field(default_factory=dict)
    closing: bool = False

    @property
    def deadline_at(self) -> float | None:
        """Wall clock, seconds."""
        return None if self.deadline_s is None else self.created_at + self.deadline_s

    @property
    def share(self) -> SessionId:
        """Whose turn its calls count as among its tenant's: its own, or its application's."""
        application = self.part_of.application
        return self.session_id if application is None else SessionId(f"{self.tenant_id}/{application}")

    @property
    def num_unfinished(self) -> int:
        """Calls that have not ended."""
        counts = self.graph.counts
        return counts["waiting"] + counts["ready"] + counts["running"]

    def label(self, variable_id: VariableId) -> str:
        """A variable's name if it has one, else its id."""
        return self.graph.variables[variable_id].name or variable_id


def analyse(session: Session, lengths: OutputLengths) -> None:
    """Begin to analyse a session's graph, as it stands now."""
    # The analysis knows what is in the session and not the session, so that both are gone with the last who
    # holds the session: a cycle would wait for the collector.
    session.analysis = ApplicationAnalysis(
        session.graph,
        shape=partial(_call_shape, session.tenant_id, session.graph, session.records),
        lengths=lengths,
        objective=session.objective,
        deadline_at_s=session.deadline_at,
    )


def _call_shape(
    tenant_id: TenantId, graph: ApplicationGraph, records: Mapping[CallId, CallRecord], call_id: CallId
) -> CallShape:
    """What a call's work depends on; a guess from its specification while it has not been lowered."""
    record = records[call_id]
    if record.program is not None:
        if record.shape is None:
            record.shape = shape_of(record.program, tenant_id=tenant_id)
        return record.shape
    call, spec = graph.calls[call_id], record.spec
    text = spec.template or "".join(message.content for message in spec.messages or ())
    outputs = []
    for placeholder, variable_id in call.outputs.items():
        parameter = spec.parameters[placeholder]
        assert isinstance(parameter, OutputParameter), "outputs are bound to output parameters"
        sampling = Sampling(max_tokens=parameter.output.sampling.max_tokens)
        function = FunctionKey(f"{tenant_id}/{placeholder}/{text}".encode())
        outputs.append(OutputShape(variable_id=variable_id, function=function, sampling=sampling))
    return CallShape(
        constant_tokens=text_tokens(text),
        inputs=dict.fromkeys(call.inputs.values(), 1),
        outputs=tuple(outputs),
    )


def deadline_failure(session: Session) -> Failure:
    """What becomes of everything that is pending when the session's deadline passes, or comes after it."""
    return Failure(code="deadline", message=f"the session's deadline of {session.deadline_s} s passed")
