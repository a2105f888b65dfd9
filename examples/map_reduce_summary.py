"""Map-reduce summary: all parts of a document are summarised side by side, then one call joins the summaries.

`Join` lets the last call consume any number of variables, so the texts never come back to the program. The
map calls are a task group to the service: only their joint completion matters, so it batches them.

    python examples/map_reduce_summary.py [URL] [FILE]
"""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import parrot
from parrot import Input, Join, Output, semantic_function

PART_CHARS = 1500
NUM_PARTS = 8


@semantic_function(max_tokens=50)
def summarise_part(part: Input, summary: Output) -> None:
    """Summarise this part of a longer document in one sentence.

    {{part}}

    Summary: {{summary}}
    """


@semantic_function(max_tokens=120)
def join_summaries(summaries: Annotated[Input, Join("\n- ")], whole: Output) -> None:
    """These sentences summarise the parts of a document, in order:

    - {{summaries}}

    The whole document in one paragraph: {{whole}}
    """


async def main(url: str | None = None, file: str | None = None) -> str:
    path = Path(file) if file else Path(__file__).parents[1] / "README.md"
    text = path.read_text(encoding="utf-8")[: PART_CHARS * NUM_PARTS]
    parts = [text[start : start + PART_CHARS] for start in range(0, len(text), PART_CHARS)]
    async with parrot.connect(url, name="map_reduce_summary") as session:
        summaries = [summarise_part(part) for part in parts]
        whole = join_summaries(summaries)
        result: str = await whole.get(objective="latency", timeout_s=300)
        print(await session.graph())
        print(result)
    return result


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
