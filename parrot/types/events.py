"""What happened, in order: the one stream that store, live streams, dashboard, metrics and replay read.

Each event belongs to one session and gets a sequence number there when it is appended. Durable events are
what a session is rebuilt from after a crash; the others are told to live readers only. Facts about single
tokens are not events but counters and deltas.

A session's life:

    SessionOpened ─ CallsSubmitted* ─ VariableSet*
                        └ per call:  CallPlaced(attempt) ─ CallStarted ─ VariableReady* ─ CallFinished
                                     (CallRetried starts the next attempt; VariableFailed when it is given up)
    SessionClosed

A tenant's registered functions are a log of their own, which is opened like a session and never closed:

    SessionOpened ─ (FunctionRegistered | FunctionRemoved)*
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from parrot.types.ids import CallId, EngineId, SessionId, TenantId, VariableId
from parrot.types.objective import Objective

CallOutcome = Literal["done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as it is stored and sent: the code of the error tree, its message and its data."""

    code: str
    message: str
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened:
    """A run of an application began."""

    durable: ClassVar[bool] = True
    session_id: SessionId
    tenant_id: TenantId
    name: str | None
    objective: Objective | None
    deadline_s: float | None
    metadata: Mapping[str, str]
    wall_s: float
    opaque: bool = False
    """Its prompts come without structure: what they share is found block by block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVariable:
    """A variable that a submission brought into being: an output, a named input, or an inline value."""

    variable_id: VariableId
    name: str | None
    value: str | None = None
    """Set at once for inline values; the variable is then ready from the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedCall:
    """One accepted call: what the client sent, and the identifiers it was given."""

    call_id: CallId
    name: str
    spec: str
    """The call as JSON text, as validated; lowering it again gives the same program."""
    inputs: Mapping[str, VariableId]
    outputs: Mapping[str, VariableId]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsSubmitted:
    """Calls were accepted together."""

    durable: ClassVar[bool] = True
    session_id: SessionId
    calls: tuple[SubmittedCall, ...]
    variables: tuple[NewVariable, ...]
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableSet:
    """A client gave an input variable its value; the variable may be new."""

    durable: ClassVar[bool] = True
    session_id: SessionId
    variable_id: VariableId
    name: str | None
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveStated:
    """A reader said how it waits for a variable."""

    durable: ClassVar[bool] = True
    session_id: SessionId
    variable_id: VariableId
    objective: Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPlaced:
    """The scheduler gave a call to an engine; `attempt` fences off every earlier one."""

    durable: ClassVar[bool] = True
    session_id: SessionId
    call_id: CallId
    attempt: int
    engine_id: EngineId
    why: str
    num_shared_tokens: int
    wall_s: float
    ready_wall_s: float | None = None
    """When its inputs were there."""
    objective: Objective | None = None
    task_group: str | None = None
    why_objective: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted:
    """A call's first token came."""

    durable: ClassVar[bool] = False
    session_id: SessionId
    call_id: CallId
    attempt: int
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRetried:
    """An attempt failed through no fault of the call; another follows."""

    durable: ClassVar[bool] = True
    session_id: SessionId
    call_id: CallId
    attempt: int
    crashed_engine: bool
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableReady:
    """A call produced a variable's value. Appended at most once for each variable."""

    durable: ClassVar[bool] = True
    session_id: SessionId
    variable_id: VariableId
    call_id: CallId
    attempt: int
    value: str
    num_tokens: int
    raw: str | None = None
    """What the model wrote, when transforms made another value of it; the call's later outputs follow it."""
    finish_reason: Literal["stop", "length"] | None = None
    """Why the model wrote no further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableFailed:
    """A variable will never have a value. Appended at most once for each, and never beside a value."""

    durable: ClassVar[bool] = True
    session_id: SessionId
    variable_id: VariableId
    call_id: CallId | None
    attempt: int
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished:
    """A call ended; nothing of it runs any more."""

    durable: ClassVar[bool] = True
    session_id: SessionId
    call_id: CallId
    attempt: int
    outcome: CallOutcome
    num_prompt_tokens: int
    num_shared_tokens: int
    num_output_tokens: int
    wall_s: float
    failure: Failure | None = None
    num_ahead_tokens: int = 0
    first_token_wall_s: float | None = None
    """Of the last attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosed:
    """A session ended: deleted by its owner, or its time ran out."""

    durable: ClassVar[bool] = True
    session_id: SessionId
    reason: Literal["deleted", "expired"]
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRegistered:
    """A tenant registered a semantic function, or a new version of one, in its log of functions."""

    durable: ClassVar[bool] = True
    session_id: SessionId
    name: str
    version: int
    spec: str
    """What the client sent, as JSON text, as validated."""
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRemoved:
    """A tenant removed a registered function with all its versions."""

    durable: ClassVar[bool] = True
    session_id: SessionId
    name: str
    wall_s: float


Event = (
    SessionOpened
    | CallsSubmitted
    | VariableSet
    | ObjectiveStated
    | CallPlaced
    | CallStarted
    | CallRetried
    | VariableReady
    | VariableFailed
    | CallFinished
    | SessionClosed
    | FunctionRegistered
    | FunctionRemoved
)
