"""A run in one request: what opens or continues a session, submits calls, and follows variables."""

from typing import Annotated

from pydantic import Field, StrictBool

from parrot.types.objective import Objective
from parrot.wire.answers import AcceptedCall, Answer, OutputView, SessionView
from parrot.wire.requests import CallSpec, Name, Reference, SessionCreate, Text, Wire


class GivenVariable(Wire):
    """A new variable that has its value at once."""

    variable: Name
    value: Text


class FollowSpec(Wire):
    """A variable whose value is to come with the answer."""

    variable: Reference
    """By name or id; one of the calls of this request may produce it."""
    objective: Objective | None = None
    """How it is waited for."""
    deltas: StrictBool = False
    """Tell its text while it is generated, too."""


class RunRequest(Wire):
    """`POST /v1/sessions/{sid}/run`."""

    variables: Annotated[tuple[GivenVariable, ...], Field(fail_fast=True)] = ()
    calls: Annotated[tuple[CallSpec, ...], Field(fail_fast=True)] = ()
    follow: Annotated[tuple[FollowSpec, ...], Field(fail_fast=True)] = ()


class RunCreate(RunRequest):
    """`POST /v1/run`."""

    session: SessionCreate = Field(default_factory=SessionCreate)


class RunAccepted(Answer):
    """The first event of a run, `accepted`; what it says is committed."""

    session: SessionView
    variables: tuple[OutputView, ...]
    """Those that were given, in their order."""
    calls: tuple[AcceptedCall, ...]


class RunDelta(Answer):
    """Event `delta` of a run: some more of a variable's raw text, not yet committed."""

    variable_id: str
    attempt: int
    text: str


class RunReset(Answer):
    """Event `reset` of a run: forget all deltas of the variable so far; another attempt begins."""

    variable_id: str
    attempt: int
