"""The page of error codes."""

from collections.abc import Iterator
from itertools import groupby

from parrot.errors import CODES, CodeInfo
from reference import MADE

INTRODUCTION = """\
Every error has a stable `code`, a number, and a class in `parrot.errors`. The HTTP service sends it as
`{"error": {"code", "number", "message", "param", "data", "retryable", "request_id"}}`, the SDK raises the
class, and the command line prints `error[NUMBER]`. *Retry* says whether the same request can
succeed later."""

GROUPS = {
    "P0": "Faults of the service",
    "P1": "Requests",
    "P2": "Limits and availability",
    "P3": "Calls and their variables",
    "P4": "Engines and models",
    "P5": "The store",
    "P6": "Configuration",
    "P7": "The client",
}
"""Headings by the first two characters of an error's number."""


def errors_page() -> str:
    """Every error code with its number, class and meaning."""
    return "\n".join(_errors_lines()) + "\n"


def _errors_lines() -> Iterator[str]:
    yield "# Errors"
    yield ""
    yield MADE
    yield ""
    yield INTRODUCTION
    rows = sorted(CODES.items(), key=lambda item: item[1].number)
    for prefix, group in groupby(rows, key=lambda item: item[1].number[:2]):
        yield ""
        yield f"## {GROUPS[prefix]}"
        yield ""
        yield "| number | code | class | retry | meaning |"
        yield "|---|---|---|---|---|"
        yield from (_row(code, info) for code, info in group)


def _row(code: str, info: CodeInfo) -> str:
    retry = "yes" if info.error.retryable else "no"
    meaning = info.meaning.replace("|", "\\|")
    return f"| {info.number} | `{code}` | `{info.error.__name__}` | {retry} | {meaning} |"
