"""Tables and numbers as Markdown."""

from collections.abc import Sequence

from parrot.bench.report.files import Found


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers are written as they come."""
    lines = [_line(headers), "|" + "---|" * len(headers), *(_line(row) for row in rows)]
    return "\n".join(lines)


def number(value: object, digits: int = 2) -> str:
    """A number for people; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 100 and digits <= 2):
        return f"{value:,.0f}"
    return f"{value:,.{digits}f}"


def spread_text(spread: Found | None, *, times: float = 1.0, digits: int = 2) -> str:
    """`median (min–max)`."""
    if spread is None:
        return "–"
    low, middle, high = (number(spread[key] * times, digits) for key in ("min", "median", "max"))
    return f"{middle} ({low}–{high})"


def median_text(spread: Found | None, *, times: float = 1.0, digits: int = 2) -> str:
    """The median alone."""
    return "–" if spread is None else number(spread["median"] * times, digits)


def code(text: str) -> str:
    """Text as code."""
    return f"`{text}`"


def section(title: str, *parts: str) -> str:
    """A section with its paragraphs; those that are empty are left out."""
    return "\n\n".join([f"## {title}", *(part for part in parts if part)])


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
