"""A session's first events, for tests of what keeps them."""

from parrot.types.events import Event, SessionOpened, VariableSet
from parrot.types.ids import DEFAULT_TENANT, SessionId, VariableId

OPENED = SessionOpened(
    session_id=SessionId("ses"),
    tenant_id=DEFAULT_TENANT,
    name=None,
    objective=None,
    deadline_s=None,
    metadata={},
    wall_s=1.0,
)


def value_set(value: str) -> Event:
    """Something that is told apart by its value."""
    return VariableSet(session_id=OPENED.session_id, variable_id=VariableId("var"), name=None, value=value)
