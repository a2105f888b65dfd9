"""What all versions of the application have in common: its steps, its input, and how they are measured.

    question ─▶ query ─┬▶ note ×5 ─▶ finding ┐
                       ├▶ note ×5 ─▶ finding ┼▶ draft ─▶ report
                       └▶ …                  ┘

Each version is a program of its own: `python VERSION.py URL MODEL` runs the application for each file of
input that it is given a line of standard input with, and answers with what it took. `parrot bench migration`
measures them all.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One kind of call: the user's message, after a system message with the rules."""

    name: str
    ask: str
    max_tokens: int
    together: bool = False
    """Several of them are wanted at once."""


QUERY = Step(name="query", ask="Question: {question}\nA search query for it:", max_tokens=16)
NOTE = Step(
    name="note", ask="Query: {query}\nDocument: {document}\nNotes on it:", max_tokens=20, together=True
)
FINDING = Step(
    name="finding", ask="Query: {query}\nNotes:\n{notes}\nWhat they say:", max_tokens=30, together=True
)
DRAFT = Step(name="draft", ask="Question: {question}\nFindings:\n{findings}\nA report:", max_tokens=40)
REPORT = Step(name="report", ask="Question: {question}\nDraft:\n{draft}\nA better report:", max_tokens=40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one run is given."""

    rules: str
    question: str
    groups: list[list[str]]
    """Documents, in groups."""


def read(file: str) -> Job:
    """The input that a file holds."""
    return Job(**json.loads(Path(file).read_text(encoding="utf-8")))


TINY = Job(rules="Be brief.", question="Why?", groups=[["One document."]])

Run = Callable[[Job], Awaitable[str]]
Opened = Callable[[str, str], AbstractAsyncContextManager[Run]]


def serve(opened: Opened) -> None:
    """Run jobs as they are named on standard input, with what `opened(url, model)` gives."""
    url, model = sys.argv[1:3]
    asyncio.run(_serve(opened(url, model)))


async def _serve(opened: AbstractAsyncContextManager[Run]) -> None:
    async with opened as run:
        await run(TINY)
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            job = await asyncio.to_thread(read, line.strip())
            began = time.perf_counter()
            text = await run(job)
            print(json.dumps({"seconds": time.perf_counter() - began, "text": text}), flush=True)
