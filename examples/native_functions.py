"""Native functions: Python between two calls, run in this program, as nodes of the same graph.

A call drafts search terms, a Python function looks them up here, and another call answers with what was
found. The functions are called like semantic functions and return variables at once, so the program still
reads top to bottom.

    python examples/native_functions.py [URL] [FILE]
"""

import asyncio
import re
import sys
from pathlib import Path

import parrot
from parrot import Input, Output, native_function, semantic_function

QUESTION = "How is the program started?"


@semantic_function(max_tokens=20, stop="\n")
def draft_terms(question: Input, terms: Output) -> None:
    """Give three words to search a manual for.

    Question: {{question}}
    Words: {{terms}}
    """


@native_function
def search(document: str, terms: str, question: str) -> list[str]:
    words = {word.lower() for word in re.findall(r"\w{4,}", f"{terms} {question}")}
    paragraphs = [paragraph.strip() for paragraph in document.split("\n\n")]
    paragraphs.sort(key=lambda paragraph: -sum(word in paragraph.lower() for word in words))
    return paragraphs[:3]


@native_function
def number(paragraphs: list[str]) -> str:
    return "\n".join(f"[{index}] {paragraph[:400]}" for index, paragraph in enumerate(paragraphs, start=1))


@semantic_function(max_tokens=60)
def answer(question: Input, passages: Input, reply: Output) -> None:
    """Answer from these passages of the manual only:

    {{passages}}

    Question: {{question}}
    Answer: {{reply}}
    """


async def main(url: str | None = None, file: str | None = None) -> str:
    path = Path(file) if file else Path(__file__).parents[1] / "README.md"
    document = path.read_text(encoding="utf-8")
    async with parrot.connect(url, name="native_functions") as session:
        found = search(document, draft_terms(QUESTION), QUESTION)
        reply = answer(QUESTION, number(found))
        print(f"found: {[passage[:40] for passage in await found]}")
        result: str = await reply.get(objective="latency", timeout_s=300)
        print(await session.graph())
        print(result)
    return result


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
