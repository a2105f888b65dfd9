"""Fourth version: a LangChain chain; `lazy` makes one application graph of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from job import DRAFT, FINDING, NOTE, QUERY, REPORT, Job, Run, Step, serve
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from parrot.integrations.langchain import ChatParrot, lazy


def join(texts: list[str]) -> str:
    """Texts on lines of their own; it only joins, so a lazy run need not wait for them."""
    return "\n".join(texts)


def report(model: ChatParrot) -> Runnable[Any, str]:
    """The application as a chain."""

    def step(one: Step) -> Runnable[Any, str]:
        prompt = ChatPromptTemplate.from_messages([("system", "{rules}"), ("human", one.ask)])
        return prompt | model.bind(max_tokens=one.max_tokens) | StrOutputParser()

    notes = (
        RunnableLambda(
            lambda group: [
                {"rules": group["rules"], "query": group["query"], "document": document}
                for document in group["documents"]
            ]
        )
        | step(NOTE).map()
        | RunnableLambda(join)
    )
    finding = RunnablePassthrough.assign(notes=notes) | step(FINDING)
    findings = (
        RunnableLambda(
            lambda given: [
                {"rules": given["rules"], "query": given["query"], "documents": documents}
                for documents in given["groups"]
            ]
        )
        | finding.map()
        | RunnableLambda(join)
    )
    return (
        RunnablePassthrough.assign(query=step(QUERY))
        | RunnablePassthrough.assign(findings=findings)
        | RunnablePassthrough.assign(draft=step(DRAFT))
        | step(REPORT)
    )


@asynccontextmanager
async def opened(url: str, model: str) -> AsyncIterator[Run]:
    """With one chain for all runs."""
    chat = ChatParrot(
        model=model, base_url=f"{url}/v1", temperature=0, extra_body={"ignore_eos": True}, timeout=600
    )
    chain: Runnable[Any, str] = lazy(report(chat))

    async def run(job: Job) -> str:
        text: str = await chain.ainvoke(asdict(job))
        return text

    yield run


if __name__ == "__main__":
    serve(opened)
