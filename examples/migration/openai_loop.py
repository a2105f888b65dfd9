"""First version: OpenAI's client, and a loop that waits for each answer to write the next prompt."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from job import DRAFT, FINDING, NOTE, QUERY, REPORT, Job, Run, Step, serve
from openai import AsyncOpenAI


class Ask(Protocol):
    """Makes one call."""

    async def __call__(self, step: Step, rules: str, **values: str) -> str:
        """Its answer."""
        ...


async def report(ask: Ask, job: Job) -> str:
    """The application; each call waits for what its prompt needs."""
    query = await ask(QUERY, job.rules, question=job.question)

    async def finding(group: list[str]) -> str:
        notes = await asyncio.gather(
            *(ask(NOTE, job.rules, query=query, document=document) for document in group)
        )
        return await ask(FINDING, job.rules, query=query, notes="\n".join(notes))

    findings = await asyncio.gather(*(finding(group) for group in job.groups))
    draft = await ask(DRAFT, job.rules, question=job.question, findings="\n".join(findings))
    return await ask(REPORT, job.rules, question=job.question, draft=draft)


@asynccontextmanager
async def opened(url: str, model: str) -> AsyncIterator[Run]:
    """With one client for all runs."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600) as client:

        async def ask(step: Step, rules: str, **values: str) -> str:
            answer = await client.chat.completions.create(
                model=model,
                messages=[
                    {"role": "system", "content": rules},
                    {"role": "user", "content": step.ask.format(**values)},
                ],
                max_tokens=step.max_tokens,
                temperature=0,
                extra_body={"ignore_eos": True},
            )
            return answer.choices[0].message.content or ""

        async def run(job: Job) -> str:
            return await report(ask, job)

        yield run


if __name__ == "__main__":
    serve(opened)
