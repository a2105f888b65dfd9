"""Streaming: pieces of two dependent outputs are shown as the model writes them.

Both calls are submitted at once. The second starts inside the service when the first is done; the program
only watches.

    python examples/streaming.py [URL]
"""

import asyncio
import sys

import parrot
from parrot import Input, Output, semantic_function


@semantic_function(max_tokens=60)
def tell_story(subject: Input, story: Output) -> None:
    """Tell a very short story about {{subject}}.

    {{story}}
    """


@semantic_function(max_tokens=40)
def find_moral(story: Input, moral: Output) -> None:
    """{{story}}

    The moral of this story: {{moral}}
    """


async def main(url: str | None = None) -> list[str]:
    async with parrot.connect(url, name="streaming"):
        story = tell_story("a parrot who learned to count")
        moral = find_moral(story)
        texts = []
        for variable in (story, moral):
            pieces = []
            async for piece in variable.stream(objective="latency"):
                print(piece, end="", flush=True)
                pieces.append(piece)
            print(f"\n({len(pieces)} pieces)\n")
            texts.append("".join(pieces))
    return texts


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
