"""Write the reference pages that are made from the code: `python tools/write_reference.py [--check]`.

With `--check` nothing is written; exit status 1 when a page is not what the code says.
"""

import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from parrot.errors import CODES, CodeInfo

ROOT = Path(__file__).resolve().parent.parent
MADE = "<!-- made by tools/write_reference.py; change the code, not this page -->"

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


PAGES: dict[str, Callable[[], str]] = {"docs/reference/errors.md": errors_page}


def main(*, check: bool) -> int:
    """Write the pages, or say which are not current; returns the exit status."""
    stale = []
    for name, make in PAGES.items():
        path = ROOT / name
        text = make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'not current; run python tools/write_reference.py' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
