"""Names of calls, from what frameworks call things."""

import re

_NO_NAME = re.compile(r"[^A-Za-z0-9_]+")
_MAX_CHARS = 48


def call_name(text: str) -> str:
    """A name that a call may have; what cannot stand in one becomes an underscore."""
    name = _NO_NAME.sub("_", text).strip("_")[:_MAX_CHARS]
    return name if name[:1].isalpha() else f"call_{name}"[:_MAX_CHARS]


def label(text: object, *, max_chars: int = 256) -> str:
    """Text that sessions may be labelled with."""
    return "".join(char if char.isprintable() else " " for char in str(text))[:max_chars]
