"""Code blocks of the documentation, and what is said about running them.

A block runs as it stands. A comment on the line before it says otherwise:

    <!-- not run: REASON -->
    <!-- runs until URL answers -->      a server; it is ended when the page's other blocks are done

A block of text may be what the block before it prints:

    <!-- printed -->                     exactly so
    <!-- printed, with other numbers --> but for digits, and the blanks that align them
    <!-- printed, after other words -->  but for the first line, in whose place any may stand
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^ *```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^ *```[ ]*$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>(?:(?!-->).)+) -->\s*\Z", re.DOTALL)
RUNS_UNTIL = re.compile(r"<!-- runs until (?P<url>\S+) answers -->\s*\Z")
PRINTED = re.compile(r"<!-- printed(?P<but>, with other numbers|, after other words|) -->\s*\Z")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    not_run: str | None
    """Why it is not run, if it is not."""
    until_url: str | None
    """It starts a server, which is up when this answers."""
    printed: str | None
    """It is what the block before it prints, but for this."""

    def matches(self, output: str) -> bool:
        """Whether it is what was printed."""
        shown, got = self.code.strip(), output.strip()
        if self.printed == ", with other numbers":
            return _without_numbers(shown) == _without_numbers(got)
        if self.printed == ", after other words":
            _, _, shown = shown.partition("\n")
            return got.endswith(f"\n{shown}" if shown else "")
        return shown == got


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
        before = text[: fence.start()]
        not_run, until, printed = NOT_RUN.search(before), RUNS_UNTIL.search(before), PRINTED.search(before)
        yield Block(
            page=page,
            line=before.count("\n") + 1,
            language=fence["language"],
            code=fence["code"],
            not_run=not_run["reason"] if not_run else None,
            until_url=until["url"] if until else None,
            printed=printed["but"] if printed else None,
        )


def _without_numbers(text: str) -> str:
    return re.sub(r"[\d.,]+", "0", re.sub(r"[ ─]+", " ", text))


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What links to the page's headings end with."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


def links(page: Path) -> Iterator[str]:
    """The targets of a page's links."""
    return (match["target"] for match in LINK.finditer(prose(page)))
