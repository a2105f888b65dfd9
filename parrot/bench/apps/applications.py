"""The applications, each written once over a `Step` that makes one call.

In Parrot a step gives a semantic variable at once, so the whole application goes to the service before its
first token is made. As a client of a completions API a step returns the text when it is there. Both make the
same calls with the same prompts, for both are made from the same semantic functions.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from parrot import Input, Join, Output, SemanticVariable, semantic_function
from parrot.bench.apps.texts import Material, Profile, Texts
from parrot.sdk.function import SemanticFunction
from parrot.types.objective import Objective

Text = str | SemanticVariable[Any]
"""What passes from one call to another."""
Function = SemanticFunction[SemanticVariable[Any]]

NUM_CHUNKS = 6
NUM_MAPS = 12
NUM_FILES = 6
NUM_ROUNDS = 2
CHUNK_WORDS = 300
SUMMARY_TOKENS = 50
QUESTION_WORDS = 20


class Step(Protocol):
    """Makes calls, in one of the two ways."""

    async def __call__(self, function: Function, /, **inputs: Text | Sequence[Text]) -> Text:
        """The call's output: a variable, or its text."""
        ...

    def text(self, name: str, text: str) -> Text:
        """A text that many calls begin with: a variable of its own, or the text."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a run is."""

    scale: float = 1.0
    """Multiplies the lengths of texts and answers; how many calls there are stays."""

    def words(self, num_words: float) -> int:
        """Words of a text."""
        return max(1, round(num_words * self.scale))

    def tokens(self, num_tokens: float) -> int:
        """Tokens of an answer; at least 2, so that there is time between tokens."""
        return max(2, round(num_tokens * self.scale))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run of an application is made of."""

    texts: Texts
    material: Material
    size: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """One application."""

    name: str
    title: str
    run: Callable[[Step, Run], Awaitable[Sequence[Text]]]
    """Makes all calls; gives what the user waits for."""
    objective: Objective
    """How the user waits."""
    material: Literal["articles", "team"] = "articles"
    streams: bool = False
    """The user reads the results as they come."""


def refine(max_tokens: int) -> Function:
    """A summary that is carried on by one more chunk."""

    @semantic_function(max_tokens=max_tokens, ignore_eos=True)
    def refine(previous: Input, chunk: Input, summary: Output) -> None:
        """Summarise the document so far.
        Previous summary: {{previous}}
        Next chunk: {{chunk}}
        Summary:{{summary}}"""

    return refine


def summarise(max_tokens: int) -> Function:
    """A chunk's summary."""

    @semantic_function(max_tokens=max_tokens, ignore_eos=True)
    def summarise(chunk: Input, summary: Output) -> None:
        """Write a concise summary of the following:
        {{chunk}}
        CONCISE SUMMARY:{{summary}}"""

    return summarise


def combine(max_tokens: int) -> Function:
    """One summary of many."""

    @semantic_function(max_tokens=max_tokens, ignore_eos=True)
    def combine(summaries: Annotated[Input, Join("\n")], summary: Output) -> None:
        """Combine the summaries:
        {{summaries}}
        FINAL:{{summary}}"""

    return combine


def answer(max_tokens: int) -> Function:
    """An assistant's answer."""

    @semantic_function(max_tokens=max_tokens, ignore_eos=True)
    def answer(system: Input, question: Input, reply: Output) -> None:
        """{{system}}
        User: {{question}}
        Answer:{{reply}}"""

    return answer


def complete(max_tokens: int) -> Function:
    """What follows a prompt."""

    @semantic_function(max_tokens=max_tokens, ignore_eos=True)
    def complete(prompt: Input, reply: Output) -> None:
        """{{prompt}}
        Answer:{{reply}}"""

    return complete


def design(max_tokens: int) -> Function:
    """The architect's plan."""

    @semantic_function(max_tokens=max_tokens, ignore_eos=True)
    def design(task: Input, plan: Output) -> None:
        """You are an architect. Task: {{task}}
        Design:{{plan}}"""

    return design


def write(max_tokens: int) -> Function:
    """A coder's first version of a file."""

    @semantic_function(max_tokens=max_tokens, ignore_eos=True)
    def write(task: Input, plan: Input, file: Input, code: Output) -> None:
        """You are on a team. Task: {{task}}
        Design: {{plan}}
        Write file {{file}}:{{code}}"""

    return write


def review(max_tokens: int) -> Function:
    """A reviewer's words on a file, with all files in view."""

    @semantic_function(max_tokens=max_tokens, ignore_eos=True)
    def review(
        task: Input, plan: Input, codes: Annotated[Input, Join("\n")], file: Input, words: Output
    ) -> None:
        """You are on a team. Task: {{task}}
        Design: {{plan}}
        {{codes}}
        Review file {{file}}:{{words}}"""

    return review


def revise(max_tokens: int) -> Function:
    """A coder's next version of a file."""

    @semantic_function(max_tokens=max_tokens, ignore_eos=True)
    def revise(
        task: Input,
        plan: Input,
        codes: Annotated[Input, Join("\n")],
        words: Input,
        file: Input,
        code: Output,
    ) -> None:
        """You are on a team. Task: {{task}}
        Design: {{plan}}
        {{codes}}
        Review: {{words}}
        Revise file {{file}}:{{code}}"""

    return revise


async def chain(step: Step, run: Run) -> Sequence[Text]:
    """A summary that is carried from chunk to chunk."""
    function = refine(run.size.tokens(SUMMARY_TOKENS))
    summary: Text = ""
    for number in range(NUM_CHUNKS):
        chunk = run.texts.words(run.size.words(CHUNK_WORDS), f"chunk {number}")
        summary = await step(function, previous=summary, chunk=chunk)
    return [summary]


async def map_reduce(step: Step, run: Run) -> Sequence[Text]:
    """A summary of each chunk, then one of all summaries."""
    num_tokens = run.size.tokens(SUMMARY_TOKENS)
    function = summarise(num_tokens)
    chunks = [run.texts.words(run.size.words(CHUNK_WORDS), f"chunk {number}") for number in range(NUM_MAPS)]
    summaries = await asyncio.gather(*(step(function, chunk=chunk) for chunk in chunks))
    return [await step(combine(num_tokens), summaries=summaries)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assistant:
    """A system prompt, and how long its answers are."""

    text: str
    answer_tokens: int


def system_texts(run: Run, *, prompt_words: int = 700, answer_tokens: int = 40) -> list[Assistant]:
    """The four assistants, or those that the material knows the lengths of."""
    profiles = run.material.assistants or (Profile(),) * 4
    return _assistants(run, profiles, prompt_words=prompt_words, answer_tokens=answer_tokens)


async def assistants(step: Step, run: Run) -> Sequence[Text]:
    """Many questions to four assistants with a long system prompt each."""
    return await _ask(step, run, system_texts(run), num_requests=24)


async def shared_prompt(step: Step, run: Run) -> Sequence[Text]:
    """Many questions on one long system prompt."""
    one = _assistants(run, (Profile(),), prompt_words=1200, answer_tokens=60)
    return await _ask(step, run, one, num_requests=24)


async def copilot(step: Step, run: Run) -> Sequence[Text]:
    """Many questions on one very long system prompt."""
    words = 3250
    one = _assistants(run, (Profile(),), prompt_words=words, answer_tokens=60)
    lengths = [part * words for part in run.material.questions] or [QUESTION_WORDS]
    return await _ask(step, run, one, num_requests=32, question_words=lengths)


async def team(step: Step, run: Run) -> Sequence[Text]:
    """An architect plans, coders write, and twice reviewers read all files and coders write them again."""
    size, files = run.size, [str(number) for number in range(NUM_FILES)]
    task = step.text("task", run.texts.words(size.words(40), "task"))
    shared: dict[str, Text] = {"task": task}
    shared["plan"] = await step(design(size.tokens(80)), **shared)
    writer, reviewer, reviser = write(size.tokens(60)), review(size.tokens(30)), revise(size.tokens(60))
    codes = await asyncio.gather(*(step(writer, **shared, file=file) for file in files))
    for _ in range(NUM_ROUNDS):
        state: Mapping[str, Text | Sequence[Text]] = {**shared, "codes": codes}
        words = await asyncio.gather(*(step(reviewer, **state, file=file) for file in files))
        revised = (
            step(reviser, **state, words=words[number], file=file) for number, file in enumerate(files)
        )
        codes = await asyncio.gather(*revised)
    return codes


def _assistants(
    run: Run, profiles: Sequence[Profile], *, prompt_words: int, answer_tokens: int
) -> list[Assistant]:
    return [
        Assistant(
            text=run.texts.words(run.size.words(prompt_words * one.prompt), f"system {number}"),
            answer_tokens=run.size.tokens(answer_tokens * one.answer),
        )
        for number, one in enumerate(profiles)
    ]


async def _ask(
    step: Step,
    run: Run,
    systems: Sequence[Assistant],
    *,
    num_requests: int,
    question_words: Sequence[float] = (QUESTION_WORDS,),
) -> Sequence[Text]:
    """`num_requests` questions, to each assistant in turn."""
    prompts = [step.text(f"system_{number}", one.text) for number, one in enumerate(systems)]
    functions = [answer(one.answer_tokens) for one in systems]
    asked = []
    for number in range(num_requests):
        kind = number % len(systems)
        num_words = run.size.words(question_words[number % len(question_words)])
        question = run.texts.words(num_words, f"question {number}")
        asked.append(step(functions[kind], system=prompts[kind], question=question))
    return await asyncio.gather(*asked)


APPLICATIONS = {
    one.name: one
    for one in (
        Application(name="chain", title="Chain summary", run=chain, objective="latency"),
        Application(name="mapreduce", title="Map-reduce summary", run=map_reduce, objective="latency"),
        Application(name="gpts", title="Four assistants", run=assistants, objective="throughput"),
        Application(name="shared", title="One long system prompt", run=shared_prompt, objective="throughput"),
        Application(name="agents", title="Coding team", run=team, objective="latency", material="team"),
        Application(name="copilot", title="Search copilot", run=copilot, objective="throughput"),
    )
}
"""By the name that `--work` takes, in the order in which they run."""
