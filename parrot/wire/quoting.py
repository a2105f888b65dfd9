"""How a client's own text appears in an error: short, escaped, and never more than is needed to find it."""

from collections.abc import Sequence

MAX_QUOTED_CHARS = 80
MAX_PATH_CHARS = 200


def quoted(value: object) -> str:
    """A value as an error message shows it: scalars escaped and cut, containers by their kind only."""
    match value:
        case str():
            cut = value[:MAX_QUOTED_CHARS]
            return ascii(cut)[: 2 * MAX_QUOTED_CHARS] + ("…" if len(cut) < len(value) else "")
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)[:MAX_QUOTED_CHARS]
        case dict():
            return "an object"
        case list() | tuple():
            return "an array"
        case _:
            return f"a value of type {type(value).__name__}"


def field_path(parts: Sequence[str | int]) -> str | None:
    """A field's place in a body, `calls[3].parameters.text.value`; None for the body itself."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = ascii(part)[1:-1] if part.isidentifier() else quoted(part)
            path += f".{name}" if path else name
    return path[:MAX_PATH_CHARS] or None
