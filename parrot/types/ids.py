"""Names for the identifiers that travel through the system; all are opaque to clients."""

import re
from collections.abc import Callable
from typing import NewType

SessionId = NewType("SessionId", str)
CallId = NewType("CallId", str)
VariableId = NewType("VariableId", str)
EngineId = NewType("EngineId", str)
TenantId = NewType("TenantId", str)
RequestId = NewType("RequestId", str)
ContextId = NewType("ContextId", int)
"""A context's number, chosen by the service, unique among all contexts it ever names on one engine."""
PrefixKey = NewType("PrefixKey", bytes)
"""A chained 16-byte hash that stands for a prompt's text up to one variable boundary."""

DEFAULT_TENANT = TenantId("default")

NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
"""What a user may call a call, a variable or a placeholder."""

ID_PATTERN = re.compile(r"(ses|eph|call|var)_[0-9a-f]{32}\Z")
"""What the service calls them; a user's name may not look like this."""

FUNCTION_PATTERN = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63})(?:@([1-9][0-9]{0,8}))?\Z")
"""A registered function's name, with or without a version."""

IdSource = Callable[[], str]
"""Gives 32 fresh hexadecimal digits on each call; chance enters the core only through this."""


def session_id(fresh: IdSource) -> SessionId:
    """A new session identifier."""
    return SessionId(f"ses_{fresh()}")


def call_id(fresh: IdSource) -> CallId:
    """A new call identifier."""
    return CallId(f"call_{fresh()}")


def variable_id(fresh: IdSource) -> VariableId:
    """A new variable identifier."""
    return VariableId(f"var_{fresh()}")


def ephemeral_session_id(fresh: IdSource) -> SessionId:
    """An identifier for a session that lives in memory only, and for one request."""
    return SessionId(f"eph_{fresh()}")


def is_ephemeral(session_id: SessionId) -> bool:
    """Whether nothing about a session is stored."""
    return session_id.startswith("eph_")


def is_variable_id(text: str) -> bool:
    """Whether `text` has the form of a variable identifier, as against a name given by a user."""
    return text.startswith("var_") and ID_PATTERN.match(text) is not None
