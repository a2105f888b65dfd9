"""Semantic variables (paper, section 4.1): named text with one producer and many consumers."""

from typing import Literal

from msgspec import Struct, field

from parrot.types.events import Failure
from parrot.types.ids import CallId, VariableId
from parrot.types.objective import Objective

VariableState = Literal["pending", "ready", "failed"]


class Variable(Struct, kw_only=True):
    """One semantic variable: `pending → ready | failed`, and what it became it stays."""

    variable_id: VariableId
    name: str | None = None
    producer: CallId | None = None
    """The call that has it as an output; None when a client sets it."""
    consumers: list[CallId] = field(default_factory=list)
    """The calls that have it as an input, each once, in the order in which they were submitted."""
    state: VariableState = "pending"
    value: str | None = None
    """Set when ready, and only then."""
    token_ids: tuple[int, ...] | None = None
    """The value's exact tokens, when a call generated it and nothing has changed it since."""
    model_hash: str | None = None
    """Whose tokens these are."""
    failure: Failure | None = None
    """Set when failed, and only then."""
    objective: Objective | None = None
    """How a reader said it waits for the value."""

    def set_ready(
        self, value: str, *, token_ids: tuple[int, ...] | None = None, model_hash: str | None = None
    ) -> bool:
        """Give the variable its value; False, and nothing changes, when it has ended already."""
        if self.state != "pending":
            return False
        self.value = value
        self.token_ids = token_ids
        self.model_hash = model_hash
        # The last, for threads that write prompts look at the state first.
        self.state = "ready"
        return True

    def set_failed(self, failure: Failure) -> bool:
        """Say that there will be no value; False, and nothing changes, when it has ended already."""
        if self.state != "pending":
            return False
        self.state = "failed"
        self.failure = failure
        return True
