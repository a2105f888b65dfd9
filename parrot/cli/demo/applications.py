"""Three applications, written once: with semantic variables between their calls, or with texts.

Each is a coroutine over a `Step`, which makes one call of a semantic function and gives its output. Inside
the service a step is a call that returns at once with a variable; request by request it is a call that
returns its text when it is there. So both ways make the same calls with the same prompts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from parrot import Input, Output, SemanticVariable, semantic_function
from parrot.sdk.function import SemanticFunction

Text = str | SemanticVariable[Any]
"""What passes from one call to another."""

NUM_PIECES = 8
NUM_CHAIN_PIECES = 5
NUM_TEAM_PIECES = 3
MAX_PIECE_CHARS = 1200
NOTE_TOKENS = 24
SUMMARY_TOKENS = 48
CODE_TOKENS = 40
REVIEW_TOKENS = 20
FILES = ("questions.py", "index.py", "answers.py")
TASK = (
    "Write a small tool for the command line that answers questions about this document. It has three "
    "modules: questions.py reads and parses what is asked, index.py finds the passages that matter, "
    "answers.py puts an answer together from them and prints it with its source. Only the standard library "
    "is used."
)


class Step(Protocol):
    """Makes one call."""

    async def __call__(self, function: SemanticFunction[SemanticVariable[Any]], /, **inputs: Text) -> Text:
        """The call's output: a variable, or its text."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """One of the demo's applications."""

    name: str
    title: str
    run: Callable[[Step, str, Sequence[str]], Awaitable[tuple[Text, ...]]]
    """Makes all calls; takes the step, the line that begins each prompt, and the document's pieces."""


@semantic_function(max_tokens=NOTE_TOKENS, ignore_eos=True)
def note_piece(run: Input, piece: Input, note: Output) -> None:
    """{{run}}
    You read one part of a long document for a colleague who has no time to read it. Note what matters in
    this part: facts, names, numbers, decisions and open questions, in the order in which they appear. Write
    short, plain sentences. Do not judge, do not repeat yourself, do not add anything that is not in the text,
    and do not mention that you are reading a part. Where the text is code or a table, say in one sentence
    what it is for.

    The part:
    {{piece}}

    Notes: {{note}}
    """


@semantic_function(max_tokens=SUMMARY_TOKENS, ignore_eos=True)
def combine_notes(
    run: Input,
    note_0: Input,
    note_1: Input = "",
    note_2: Input = "",
    note_3: Input = "",
    note_4: Input = "",
    note_5: Input = "",
    note_6: Input = "",
    note_7: Input = "",
    *,
    summary: Output,
) -> None:
    """{{run}}
    These are notes on the parts of a long document, in order. Write one summary of the whole document from
    them.

    {{note_0}} {{note_1}} {{note_2}} {{note_3}} {{note_4}} {{note_5}} {{note_6}} {{note_7}}

    Summary: {{summary}}
    """


@semantic_function(max_tokens=NOTE_TOKENS, ignore_eos=True)
def refine_summary(run: Input, summary: Input, piece: Input, refined: Output) -> None:
    """{{run}}
    You keep the summary of a long document up to date while you read it part by part. Below are the summary
    so far and the next part. Write the summary again so that it covers the new part too. Keep it short; drop
    details rather than the main points; write plain sentences.

    The summary so far: {{summary}}

    The next part:
    {{piece}}

    The new summary: {{refined}}
    """


@semantic_function(max_tokens=CODE_TOKENS, ignore_eos=True)
def design(run: Input, document: Input, task: Input, plan: Output) -> None:
    """{{run}}
    You work in a team of engineers: an architect, coders, reviewers. The document that the team works from:
    {{document}}
    The team's task: {{task}}
    The architect's plan: {{plan}}"""


@semantic_function(max_tokens=CODE_TOKENS, ignore_eos=True)
def write_file(run: Input, document: Input, task: Input, plan: Input, file: Input, code: Output) -> None:
    """{{run}}
    You work in a team of engineers: an architect, coders, reviewers. The document that the team works from:
    {{document}}
    The team's task: {{task}}
    The architect's plan: {{plan}}
    You are a coder. Write the file {{file}}: {{code}}"""


@semantic_function(max_tokens=REVIEW_TOKENS, ignore_eos=True)
def review_file(
    run: Input,
    document: Input,
    task: Input,
    plan: Input,
    code_0: Input,
    code_1: Input,
    code_2: Input,
    file: Input,
    review: Output,
) -> None:
    """{{run}}
    You work in a team of engineers: an architect, coders, reviewers. The document that the team works from:
    {{document}}
    The team's task: {{task}}
    The architect's plan: {{plan}}
    The files: {{code_0}} {{code_1}} {{code_2}}
    You are a reviewer. What is wrong with the file {{file}}? {{review}}"""


@semantic_function(max_tokens=CODE_TOKENS, ignore_eos=True)
def revise_file(
    run: Input,
    document: Input,
    task: Input,
    plan: Input,
    code_0: Input,
    code_1: Input,
    code_2: Input,
    file: Input,
    review: Input,
    code: Output,
) -> None:
    """{{run}}
    You work in a team of engineers: an architect, coders, reviewers. The document that the team works from:
    {{document}}
    The team's task: {{task}}
    The architect's plan: {{plan}}
    The files: {{code_0}} {{code_1}} {{code_2}}
    You are a coder. The reviewer says of the file {{file}}: {{review}}
    Write the file again: {{code}}"""


async def map_reduce(step: Step, run: str, parts: Sequence[str]) -> tuple[Text, ...]:
    """Notes on every part, then one summary of all notes."""
    notes = await asyncio.gather(*(step(note_piece, run=run, piece=part) for part in parts))
    numbered = {f"note_{number}": note for number, note in enumerate(notes)}
    return (await step(combine_notes, run=run, **numbered),)


async def chain(step: Step, run: str, parts: Sequence[str]) -> tuple[Text, ...]:
    """One summary that is carried from part to part."""
    summary: Text = "(nothing yet)"
    for part in parts[:NUM_CHAIN_PIECES]:
        summary = await step(refine_summary, run=run, summary=summary, piece=part)
    return (summary,)


async def coding_team(step: Step, run: str, parts: Sequence[str]) -> tuple[Text, ...]:
    """An architect plans, coders write, reviewers read all files, coders revise."""
    shared: dict[str, Text] = {"run": run, "document": "\n".join(parts[:NUM_TEAM_PIECES]), "task": TASK}
    shared["plan"] = await step(design, **shared)
    codes = await asyncio.gather(*(step(write_file, **shared, file=file) for file in FILES))
    shared |= {f"code_{number}": code for number, code in enumerate(codes)}
    reviews = await asyncio.gather(*(step(review_file, **shared, file=file) for file in FILES))
    revised = (
        step(revise_file, **shared, file=file, review=review)
        for file, review in zip(FILES, reviews, strict=True)
    )
    return tuple(await asyncio.gather(*revised))


APPLICATIONS = (
    Application(name="map_reduce", title="map-reduce summary", run=map_reduce),
    Application(name="chain", title="chain summary", run=chain),
    Application(name="coding_team", title="coding team", run=coding_team),
)
"""In the order in which they are run."""
