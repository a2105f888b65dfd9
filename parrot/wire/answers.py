"""What the service sends. Clients of the same major version ignore fields they do not know."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from parrot.types.objective import Objective


class Answer(BaseModel):
    """Base of every answer model."""

    model_config = ConfigDict(frozen=True)


class ErrorBody(Answer):
    """The inside of the error envelope."""

    code: str
    message: str
    param: str | None = None
    request_id: str | None = None
    number: str | None = None
    retryable: bool = False
    data: dict[str, object] | None = None


class ErrorEnvelope(Answer):
    """`{"error": {…}}`: every answer with a status of 400 or more."""

    error: ErrorBody


class CallCounts(Answer):
    """How many calls of a session are in which state."""

    waiting: int = 0
    """Inputs are missing."""
    ready: int = 0
    """Waits for an engine."""
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0


class SessionView(Answer):
    """One session."""

    session_id: str
    name: str | None
    state: Literal["open", "closed"]
    objective: Objective | None
    deadline_s: float | None
    metadata: dict[str, str]
    created_at: float
    """Seconds since the epoch."""
    calls: CallCounts
    num_variables: int


class SessionList(Answer):
    """`GET /v1/sessions`, newest first."""

    sessions: tuple[SessionView, ...]
    next: str | None = None
    """Give it as `?after=` for the following page."""


class OutputView(Answer):
    """Where an output goes."""

    variable_id: str
    name: str | None


class AcceptedCall(Answer):
    """One accepted call."""

    call_id: str
    name: str
    outputs: dict[str, OutputView]


class CallsAccepted(Answer):
    """Answer to a submission; what it says is committed."""

    calls: tuple[AcceptedCall, ...]


class VariableView(Answer):
    """One variable; `value` only when ready, `error` only when failed."""

    variable_id: str
    name: str | None
    state: Literal["pending", "ready", "failed"]
    value: str | None = None
    error: ErrorBody | None = None


class Times(Answer):
    """When things happened to a call, in seconds since the session began."""

    submitted_s: float
    ahead_began_s: float | None = None
    """From here on more of its prompt's beginning was filled while inputs were missing, for the last time."""
    ahead_ended_s: float | None = None
    ready_s: float | None = None
    """Its inputs were there."""
    placed_s: float | None = None
    first_token_s: float | None = None
    done_s: float | None = None


class Tokens(Answer):
    """Tokens of a call's last attempt."""

    prompt: int = 0
    """Tokens before and between its outputs."""
    shared: int = 0
    """Of these, taken from a context that was there."""
    ahead: int = 0
    """Of the shared ones, filled for this or a like call while its inputs were being made."""
    output: int = 0


class CallNode(Answer):
    """A node of the application graph."""

    call_id: str
    name: str
    model: str
    state: Literal["waiting", "ready", "running", "done", "failed", "cancelled"]
    stage: int
    """Topological depth: 0 for calls that wait for no other call."""
    objective: Objective
    task_group: str | None
    why: str
    """Why it has this objective and was placed where it was: the two reasons below in one line."""
    engine_id: str | None
    attempt: int
    times: Times
    tokens: Tokens
    inputs: dict[str, str]
    """Placeholder → variable id."""
    outputs: dict[str, str]
    error: ErrorBody | None = None
    why_objective: str = ""
    """Why it has this objective."""
    why_engine: str = ""
    """Why its engine was chosen."""
    critical: bool = False
    """It lies on the critical path."""
    slack_s: float | None = None
    """Seconds that it can wait before a deadline is missed; below 0 it probably will be. None without a
    deadline, and when the call has ended."""


class VariableNode(Answer):
    """A variable of the application graph, without its value."""

    variable_id: str
    name: str | None
    state: Literal["pending", "ready", "failed"]
    producer: str | None
    """Call id; None for an input that a client sets."""
    consumers: tuple[str, ...]
    num_chars: int | None = None


class Edge(Answer):
    """A data flow from one call to another."""

    source: str
    target: str
    variable_id: str


class GraphView(Answer):
    """`GET /v1/sessions/{sid}/graph`."""

    session_id: str
    calls: tuple[CallNode, ...]
    variables: tuple[VariableNode, ...]
    edges: tuple[Edge, ...]
    critical_path: tuple[str, ...] = ()
    """Call ids in order. Of what has ended: the calls whose ends determined when the next began. Of what is
    open: the chain of the most expected work."""
    deadline_s: float | None = None
    """The session's, in seconds since it began."""


class CancelAnswer(Answer):
    """What a cancel ended."""

    cancelled: tuple[str, ...]
    """Call ids."""


class ModelView(Answer):
    """One served model, in the shape OpenAI uses."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "parrot"
    max_model_len: int


class ModelList(Answer):
    """`GET /v1/models`."""

    object: Literal["list"] = "list"
    data: tuple[ModelView, ...]


class EngineView(Answer):
    """One engine. Its load is told to operators only: other tenants' work could be read off it."""

    engine_id: str
    kind: str
    model: str
    state: Literal["up", "starting", "lost"]
    device: str
    dtype: str
    num_parameters: int
    context_tokens: int
    block_tokens: int
    num_blocks: int
    kv_capacity_tokens: int
    num_restarts: int
    description: str
    num_running: int = 0
    num_waiting: int = 0
    num_owned_blocks: int = 0
    num_cached_blocks: int = 0
    num_free_blocks: int = 0
    num_prefilled_tokens: int = 0
    num_decoded_tokens: int = 0
    num_preemptions: int = 0
    num_evictions: int = 0


ENGINE_LOAD = frozenset(
    {
        "num_running",
        "num_waiting",
        "num_owned_blocks",
        "num_cached_blocks",
        "num_free_blocks",
        "num_prefilled_tokens",
        "num_decoded_tokens",
        "num_preemptions",
        "num_evictions",
    }
)
"""Fields of `EngineView` that are left out for tenants who are not operators."""


class EngineList(Answer):
    """`GET /v1/engines`."""

    engines: tuple[EngineView, ...]
    has_loads: bool = True
    """Whether whoever asked is told the engines' loads."""


class Delta(Answer):
    """Stream event `delta`: some more of a variable's raw text, not yet committed."""

    attempt: int
    text: str


class Reset(Answer):
    """Stream event `reset`: forget all deltas so far; another attempt begins."""

    attempt: int


class Health(Answer):
    """`GET /healthz` and `/readyz`."""

    status: Literal["ok", "starting", "draining", "unavailable"]
    version: str
    detail: str | None = None
    pid: int | None = None
    """The service's process."""
