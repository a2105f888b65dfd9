"""Chain summary: a long text is read part by part, and each call refines the summary of the one before.

Every call depends on the last, so a client that goes request by request pays a round trip and a queue for
each part. Here all calls are submitted at once; the service hands each summary to the next call by itself.

    python examples/chain_summary.py [URL] [FILE]
"""

import asyncio
import sys
from pathlib import Path

import parrot
from parrot import Input, Output, semantic_function

PART_CHARS = 1500
NUM_PARTS = 6


@semantic_function(max_tokens=80)
def refine(summary: Input, part: Input, refined: Output) -> None:
    """You keep the summary of a long document up to date while reading it part by part.

    The summary so far:
    {{summary}}

    The next part:
    {{part}}

    The summary, brought up to date in at most three sentences: {{refined}}
    """


async def main(url: str | None = None, file: str | None = None) -> str:
    path = Path(file) if file else Path(__file__).parents[1] / "README.md"
    text = path.read_text(encoding="utf-8")[: PART_CHARS * NUM_PARTS]
    parts = [text[start : start + PART_CHARS] for start in range(0, len(text), PART_CHARS)]
    async with parrot.connect(url, name="chain_summary") as session:
        summary = refine(summary="(nothing yet)", part=parts[0])
        for part in parts[1:]:
            summary = refine(summary=summary, part=part)
        result: str = await summary.get(objective="latency", timeout_s=300)
        print(await session.graph())
        print(result)
    return result


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
