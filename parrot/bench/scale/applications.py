"""The applications of the scale measurement, written with the SDK."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from parrot import Input, Join, Output, SemanticVariable, semantic_function
from parrot.bench.apps.applications import NUM_FILES, NUM_ROUNDS, Run, Size, team
from parrot.bench.apps.parrot_side import LinkedStep
from parrot.bench.apps.texts import Material, Texts
from parrot.ports.clock import Clock
from parrot.sdk.session import Session

CHUNK_WORDS = 300
FAN_IN = 50
"""Summaries that one call of the tree combines."""
NUM_TURNS = 4
THINK_S = 0.5
"""A user reads so long before the next question."""


@semantic_function(max_tokens=50, ignore_eos=True)
def summarise(chunk: Input, summary: Output) -> None:
    """Summarise this part of a book in one paragraph.
    {{chunk}}
    Summary: {{summary}}"""


@semantic_function(max_tokens=50, ignore_eos=True)
def combine(summaries: Annotated[Input, Join("\n")], summary: Output) -> None:
    """These are summaries of parts of a book, in order. Write one summary of them all.
    {{summaries}}
    Summary: {{summary}}"""


@semantic_function(max_tokens=40, ignore_eos=True)
def reply(history: Annotated[Input, Join("\n")], question: Input, answer: Output) -> None:
    """You are a friendly assistant. You answer briefly and say when you do not know.
    {{history}}
    User: {{question}}
    Assistant: {{answer}}"""


TEAM_CALLS = 1 + NUM_FILES * (1 + 2 * NUM_ROUNDS)
"""An architect, and for each file a coder, and in each round a reviewer and a coder again."""

Variable = SemanticVariable[Any]


def book(session: Session, texts: Texts, num_maps: int) -> tuple[int, list[Variable]]:
    """A summary of each part, then a tree of summaries of summaries; gives how many calls that is."""
    layer: Sequence[Variable] = [
        session.call(summarise, chunk=texts.words(CHUNK_WORDS, f"part {number}"))
        for number in range(num_maps)
    ]
    num_calls = len(layer)
    while len(layer) > 1:
        layer = [session.call(combine, summaries=layer[i : i + FAN_IN]) for i in range(0, len(layer), FAN_IN)]
        num_calls += len(layer)
    return num_calls, list(layer)


async def chat(
    session: Session, texts: Texts, clock: Clock, turns_s: list[float], firsts_s: list[float]
) -> int:
    """A user's turns, each streamed, each with all before it in view; gives how many calls that is."""
    history: list[str | Variable] = []
    for turn in range(NUM_TURNS):
        question = texts.words(30, f"{session.name} {turn}")
        began_s, is_first = clock.now_s(), True
        answer = session.call(reply, history=history or ["(This is the beginning.)"], question=question)
        async for _ in answer.stream(objective="latency"):
            if is_first:
                firsts_s.append(clock.now_s() - began_s)
                is_first = False
        turns_s.append(clock.now_s() - began_s)
        history += [question, answer]
        await asyncio.sleep(THINK_S)
    return NUM_TURNS


async def coding_team(session: Session, texts: Texts) -> list[Variable]:
    """Architect, coders, reviewers, two rounds."""
    run = Run(texts=texts, material=Material(), size=Size())
    async with session.batch():
        results = await team(LinkedStep(session), run)
    return [one for one in results if isinstance(one, SemanticVariable)]
