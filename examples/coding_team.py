"""Coding team: an architect, coders, reviewers and revisers work on a small project for several rounds.

One file's reviews feed its revision, and every role reads the plan: what a call wrote is a prefix that many
other calls share. The whole project of some twenty calls is one graph, submitted at once.

    python examples/coding_team.py [URL]
"""

import asyncio
import sys
from typing import Annotated

import parrot
from parrot import Input, Join, Output, semantic_function

FILES = ["game.py", "board.py", "score.py"]
ASPECTS = ["correctness", "clarity"]
NUM_ROUNDS = 2
TASK = "a snake game for the terminal, with a board, moving snake, food and a table of high scores"


@semantic_function(max_tokens=80)
def design(task: Input, files: Input, plan: Output) -> None:
    """You are the architect of a small team. The task: {{task}}
    The files: {{files}}

    Say for each file what is in it and which functions others call: {{plan}}
    """


@semantic_function(max_tokens=100)
def write_file(plan: Input, file: Input, code: Output) -> None:
    """You are an engineer. The architect's plan:
    {{plan}}

    Write {{file}} in Python:
    {{code}}
    """


@semantic_function(max_tokens=40)
def review_file(plan: Input, code: Input, aspect: Input, comment: Output) -> None:
    """You review code. The architect's plan:
    {{plan}}

    The code:
    {{code}}

    Your most important comment on its {{aspect}}: {{comment}}
    """


@semantic_function(max_tokens=100)
def revise_file(plan: Input, code: Input, comments: Annotated[Input, Join("\n- ")], revised: Output) -> None:
    """You are an engineer. The architect's plan:
    {{plan}}

    Your code:
    {{code}}

    The reviewers say:
    - {{comments}}

    The code with their comments taken in:
    {{revised}}
    """


async def main(url: str | None = None) -> dict[str, str]:
    async with parrot.connect(url, name="coding_team") as session:
        async with session.batch():
            plan = design(task=TASK, files=", ".join(FILES))
            project = {file: write_file(plan, file) for file in FILES}
            for _ in range(NUM_ROUNDS):
                for file, code in project.items():
                    comments = [review_file(plan, code, aspect) for aspect in ASPECTS]
                    project[file] = revise_file(plan, code, comments)
        codes = await session.gather(*project.values(), objective="throughput", timeout_s=600)
        print(await session.graph())
        written = dict(zip(FILES, map(str, codes), strict=True))
        for file, text in written.items():
            print(f"\n# {file}\n{text}")
    return written


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
