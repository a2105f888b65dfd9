"""Third version: the same loop, which gets a variable's name for an answer, and writes that into prompts.

With the object `parrot`, a request is a call of a session, and its answer a variable. Nobody waits but for
the last one, so all requests are sent at once.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from job import REPORT, Job, Run, Step, serve
from openai import AsyncOpenAI
from openai_loop import report


@asynccontextmanager
async def opened(url: str, model: str) -> AsyncIterator[Run]:
    """With one client for all runs; each run is a session of the service."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600) as client:

        async def run(job: Job) -> str:
            session: Any = await client.post("/sessions", cast_to=object, body={"name": "report"})
            sent: list[asyncio.Task[str]] = []

            async def send(step: Step, rules: str, values: dict[str, str], **parrot: object) -> str:
                answer = await client.chat.completions.create(
                    model=model,
                    messages=[
                        {"role": "system", "content": rules},
                        {"role": "user", "content": step.ask.format(**values)},
                    ],
                    max_tokens=step.max_tokens,
                    temperature=0,
                    extra_body={
                        "ignore_eos": True,
                        "parrot": {"session_id": session["session_id"], **parrot},
                    },
                )
                return answer.choices[0].message.content or "" if answer.choices else ""

            async def ask(step: Step, rules: str, **values: str) -> str:
                if step is REPORT:
                    return await send(step, rules, values, objective="latency")
                name = f"{step.name}_{len(sent)}"
                sent.append(asyncio.create_task(send(step, rules, values, outputs=[name], wait=False)))
                return f"{{{{{name}}}}}"

            text = await report(ask, job)
            await asyncio.gather(*sent)
            return text

        yield run


if __name__ == "__main__":
    serve(opened)
