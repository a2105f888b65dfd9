"""Fifth version: semantic functions, whose calls return variables at once."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated

import httpx2
from job import DRAFT, FINDING, NOTE, QUERY, REPORT, Job, Run, serve

import parrot
from parrot import Input, Join, Message, Output, semantic_function


def messages(ask: str) -> list[Message]:
    """The step's messages as templates."""
    return [
        parrot.system("{{rules}}"),
        parrot.user(ask.replace("{", "{{").replace("}", "}}")),
        parrot.assistant("{{answer}}"),
    ]


@semantic_function(messages=messages(QUERY.ask), max_tokens=QUERY.max_tokens, ignore_eos=True)
def query(rules: Input, question: Input, answer: Output) -> None:
    """A search query."""


@semantic_function(messages=messages(NOTE.ask), max_tokens=NOTE.max_tokens, ignore_eos=True)
def note(rules: Input, query: Input, document: Input, answer: Output) -> None:
    """Notes on a document."""


@semantic_function(messages=messages(FINDING.ask), max_tokens=FINDING.max_tokens, ignore_eos=True)
def finding(rules: Input, query: Input, notes: Annotated[Input, Join("\n")], answer: Output) -> None:
    """What notes say."""


@semantic_function(messages=messages(DRAFT.ask), max_tokens=DRAFT.max_tokens, ignore_eos=True)
def draft(rules: Input, question: Input, findings: Annotated[Input, Join("\n")], answer: Output) -> None:
    """A first report."""


@semantic_function(messages=messages(REPORT.ask), max_tokens=REPORT.max_tokens, ignore_eos=True)
def report(rules: Input, question: Input, draft: Input, answer: Output) -> None:
    """A better one."""


@asynccontextmanager
async def opened(url: str, model: str) -> AsyncIterator[Run]:
    """With connections for all runs; each run is a session of the service, left when all are through."""
    async with httpx2.AsyncHTTPTransport() as connections, AsyncExitStack() as stack:

        async def run(job: Job) -> str:
            session = await stack.enter_async_context(
                parrot.connect(url, model=model, name="report", transport=connections)
            )
            rules = session.variable("rules", job.rules)
            wanted = query(rules=rules, question=job.question)
            findings = []
            for group in job.groups:
                notes = [note(rules=rules, query=wanted, document=one) for one in group]
                findings.append(finding(rules=rules, query=wanted, notes=notes))
            first = draft(rules=rules, question=job.question, findings=findings)
            return await report(rules=rules, question=job.question, draft=first).text("latency")

        yield run


if __name__ == "__main__":
    serve(opened)
