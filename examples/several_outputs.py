"""Several outputs in one prompt, with sampling and types of their own.

The outputs of a template are written in order, each with everything before it in view, without sending the
prompt again. Here the mood is held to one word and the tags are read as a list; a text that is no list is an
error that says so.

    python examples/several_outputs.py [URL]
"""

import asyncio
import sys
from typing import Annotated, Any, NamedTuple

import parrot
from parrot import CallError, Input, Output, Sampling, SemanticVariable, StripTransform, semantic_function

REVIEW = "The tent kept us dry for a week of rain, but the poles bent on the first windy night."


class Reading(NamedTuple):
    mood: SemanticVariable[Any]
    reason: SemanticVariable[Any]
    tags: SemanticVariable[Any]


@semantic_function(result=Reading)
def read_review(
    review: Input,
    mood: Annotated[Output, Sampling(max_tokens=3, stop=("\n", ".")), StripTransform()],
    reason: Annotated[Output, Sampling(max_tokens=30, stop=("\n",)), StripTransform()],
    tags: Annotated[Output[list[str]], Sampling(max_tokens=40)],
) -> None:
    """A customer writes: {{review}}

    Mood in one word: {{mood}}
    Because: {{reason}}
    Tags, as a JSON list of strings: {{tags}}
    """


async def main(url: str | None = None) -> tuple[str, str, list[str] | None]:
    async with parrot.connect(url, name="several_outputs") as session:
        reading = read_review(REVIEW)
        mood, reason = await session.gather(reading.mood, reading.reason, timeout_s=300)
        print(f"mood: {mood}\nreason: {reason}")
        tags: list[str] | None = None
        try:
            tags = await reading.tags.get(timeout_s=300)
            print(f"tags: {', '.join(tags)}")
        except CallError as error:
            print(f"tags: the model wrote no list ({error.code})")
    return mood, reason, tags


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
