"""Meeting minutes: from a transcript to decisions, tasks and a message, with typed outputs and transforms.

The first call has three outputs in one prompt, each written with the ones before it in view. A transform cuts
the tasks down to their lines inside the service, before the next call sees them.

    python examples/meeting_minutes.py [URL]
"""

import asyncio
import sys
from typing import Annotated, Any, NamedTuple

import parrot
from parrot import Input, Output, Sampling, SemanticVariable, StripTransform, semantic_function

TRANSCRIPT = """\
Ada: The import takes forty minutes. We cannot ship that.
Ben: Half of it is the index. We could build the index afterwards, in the background.
Ada: Then search is empty for the first minutes. Is that acceptable?
Chloe: With a banner, yes. I asked two customers, both would rather start early.
Ada: Good. Decided: the index is built in the background, with a banner until it is there.
Ben: I need two days for it. Chloe, can you write the banner's text by Thursday?
Chloe: By Wednesday. And I will tell the customers.
Ada: Then we ship on Friday."""


class Minutes(NamedTuple):
    topic: SemanticVariable[Any]
    decisions: SemanticVariable[Any]
    tasks: SemanticVariable[Any]


@semantic_function(result=Minutes, transforms=[StripTransform()])
def take_minutes(
    transcript: Input,
    topic: Annotated[Output, Sampling(max_tokens=12, stop=("\n",))],
    decisions: Annotated[Output, Sampling(max_tokens=60, stop=("\nTasks",))],
    tasks: Annotated[Output, Sampling(max_tokens=80), StripTransform()],
) -> None:
    """You take the minutes of a meeting. The transcript:

    {{transcript}}

    Topic in a few words: {{topic}}
    Decisions, one a line: {{decisions}}
    Tasks, one a line, as "name: task, until when": {{tasks}}
    """


@semantic_function(max_tokens=100)
def write_mail(topic: Input, decisions: Input, tasks: Input, mail: Output) -> None:
    """Write a short mail to everyone who missed the meeting about "{{topic}}".

    It was decided: {{decisions}}
    To do: {{tasks}}

    The mail: {{mail}}
    """


async def main(url: str | None = None) -> str:
    async with parrot.connect(url, name="meeting_minutes") as session:
        minutes = take_minutes(TRANSCRIPT)
        mail = write_mail(*minutes)
        topic, decisions, tasks, text = await session.gather(*minutes, mail, timeout_s=300)
        print(f"Topic: {topic}\n\nDecisions:\n{decisions}\n\nTasks:\n{tasks}\n\nMail:\n{text}")
    return str(text)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
