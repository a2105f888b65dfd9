"""Second version: the same loop, whose requests say what they are a part of, and what comes again."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from job import Job, Run, Step, serve
from openai import AsyncOpenAI
from openai_loop import report

ENDS_HERE = {"mode": "explicit"}


@asynccontextmanager
async def opened(url: str, model: str) -> AsyncIterator[Run]:
    """With one client for all runs; each run is a session of the client's own."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600) as client:

        async def run(job: Job) -> str:
            headers = {"X-Dynamo-Session-ID": f"report-{uuid.uuid4().hex}"}

            async def ask(step: Step, rules: str, **values: str) -> str:
                first: Any = {"type": "text", "text": rules, "prompt_cache_breakpoint": ENDS_HERE}
                hints = {"parrot": {"group": step.name}} if step.together else {}
                answer = await client.chat.completions.create(
                    model=model,
                    messages=[
                        {"role": "system", "content": [first]},
                        {"role": "user", "content": step.ask.format(**values)},
                    ],
                    max_tokens=step.max_tokens,
                    temperature=0,
                    prompt_cache_key="reports",
                    extra_headers=headers,
                    extra_body={"ignore_eos": True, **hints},
                )
                return answer.choices[0].message.content or ""

            return await report(ask, job)

        yield run


if __name__ == "__main__":
    serve(opened)
