"""The paper's applications, with the lengths of its experiments (figures 11 to 18), and some more that show
what single ingredients of the service are for; texts are marks.

Each generator draws from a stream of its own, so that both sides of a comparison get the same prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from parrot.sim.application import AppCall, Application, Piece, Ref, Text
from parrot.sim.chance import text_seeds

CHARS_PER_TOKEN = 3.4
"""Of the paper's articles, full of formulas; with this figure 13a's ratios come out."""
_INSTRUCTION_TOKENS = 40
"""What a summary's prompt says around the text."""


def _documents(seeds: Callable[[], int], num_tokens: int, chunk_tokens: int) -> list[Text]:
    """A document cut into chunks; the last is what is left."""
    sizes = [chunk_tokens] * (num_tokens // chunk_tokens)
    if rest := num_tokens % chunk_tokens:
        sizes.append(rest)
    return [Text(num_tokens=size, seed=seeds()) for size in sizes]


def article_tokens(
    rng: Random, *, least_kb: float = 61.0, mean_kb: float = 82.0, most_kb: float = 130.0
) -> int:
    """Length of an article like the paper's: between the shortest and the longest, with their mean."""
    mode_kb = max(least_kb, 3 * mean_kb - least_kb - most_kb)
    return int(rng.triangular(least_kb, most_kb, mode_kb) * 1000 / CHARS_PER_TOKEN)


def short_article_tokens(rng: Random) -> int:
    """Length of an article of the paper's second sample, which figure 12b has."""
    return article_tokens(rng, least_kb=52.0, mean_kb=69.0, most_kb=87.0)


def chain_summary(
    rng: Random, *, chunk_tokens: int = 1024, output_tokens: int = 50, num_tokens: int | None = None
) -> Application:
    """Figures 11 and 12: refine a summary chunk by chunk; each call reads the summary of the one before."""
    seeds = text_seeds(rng)
    instruction = Text(num_tokens=_INSTRUCTION_TOKENS, seed=1)
    calls: list[AppCall] = []
    for index, chunk in enumerate(_documents(seeds, num_tokens or article_tokens(rng), chunk_tokens)):
        before: tuple[Piece, ...] = (Ref(call=calls[-1].name),) if calls else ()
        calls.append(
            AppCall(
                name=f"refine_{index}",
                prompt=(instruction, *before, chunk),
                num_output_tokens=output_tokens,
            )
        )
    return Application(kind="chain", rounds=(tuple(calls),))


def map_reduce_summary(
    rng: Random,
    *,
    chunk_tokens: int = 1024,
    output_tokens: int = 50,
    num_tokens: int | None = None,
) -> Application:
    """Figures 13 and 18: summarise every chunk, then the summaries."""
    seeds = text_seeds(rng)
    instruction = Text(num_tokens=_INSTRUCTION_TOKENS, seed=2)
    chunks = _documents(seeds, num_tokens or article_tokens(rng), chunk_tokens)
    maps = tuple(
        AppCall(name=f"map_{index}", prompt=(instruction, chunk), num_output_tokens=output_tokens)
        for index, chunk in enumerate(chunks)
    )
    reduce = AppCall(
        name="reduce",
        prompt=(Text(num_tokens=_INSTRUCTION_TOKENS, seed=3), *(Ref(call=each.name) for each in maps)),
        num_output_tokens=output_tokens,
    )
    return Application(kind="mapreduce", rounds=((*maps, reduce),))


def single_call(
    kind: str, *, system: Text | None, query_tokens: int, output_tokens: int, rng: Random
) -> Application:
    """One request: a system prompt that others have too, and a question of its own."""
    question = Text(num_tokens=query_tokens, seed=text_seeds(rng)())
    prompt = (question,) if system is None else (system, question)
    call = AppCall(name="answer", prompt=prompt, num_output_tokens=output_tokens)
    return Application(kind=kind, rounds=((call,),))


def background_request(rng: Random) -> Application:
    """Figure 12a: 512 tokens in, 50 out."""
    return single_call("background", system=None, query_tokens=512, output_tokens=50, rng=rng)


COPILOT_PREFIX = Text(num_tokens=5107, seed=100)
"""Figures 14 and 15: the system prompt of every request."""


def copilot_request(rng: Random, *, output_tokens: int | None = None) -> Application:
    """Figures 14 and 15: prompts of 5,224 to 7,492 tokens (mean 6,167), outputs of 183 to 800 (mean 331)."""
    num_tokens = int(rng.triangular(5224, 7492, 5785))
    drawn = int(min(800.0, 183 + rng.expovariate(1 / 151)))
    return single_call(
        "copilot",
        system=COPILOT_PREFIX,
        query_tokens=num_tokens - COPILOT_PREFIX.num_tokens,
        output_tokens=output_tokens or drawn,
        rng=rng,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GptsApp:
    """One of figure 16's four GPTs: lengths of its system prompt, query and output, in tokens."""

    name: str
    system: int
    query: int
    output: int


GPTS: Sequence[GptsApp] = (
    GptsApp(name="productivity", system=7437, query=7, output=704),
    GptsApp(name="image_generation", system=1116, query=8, output=89),
    GptsApp(name="programming", system=1694, query=4, output=631),
    GptsApp(name="data_analysis", system=2031, query=4, output=416),
)


def gpts_request(rng: Random) -> Application:
    """Figure 16: a request to one of the four, each as likely as the others."""
    index = rng.randrange(len(GPTS))
    app = GPTS[index]
    system = Text(num_tokens=app.system, seed=200 + index)
    return single_call("gpts", system=system, query_tokens=app.query, output_tokens=app.output, rng=rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamRound:
    """A round of figure 17's team: tokens of a member's prompt, of its shared part, and of its output."""

    role: str
    prompt: int
    shared: int
    output: int


TEAM_ROUNDS: Sequence[TeamRound] = (
    TeamRound(role="architect", prompt=232, shared=232, output=882),
    TeamRound(role="coder", prompt=3545, shared=3454, output=790),
    TeamRound(role="reviewer", prompt=4874, shared=4813, output=400),
    TeamRound(role="reviser", prompt=5377, shared=5259, output=720),
)
"""The log's four rounds in the tokens of the paper's model; the last two are repeated."""


def coding_team(rng: Random, *, num_files: int = 8, num_repeats: int = 4) -> Application:
    """Figure 17: architect, coders, then reviewers and revisers `num_repeats` times; the client waits for
    each round as a whole.
    """
    seeds = text_seeds(rng)
    rounds: list[tuple[AppCall, ...]] = []
    for number, each in enumerate([*TEAM_ROUNDS[:2], *list(TEAM_ROUNDS[2:]) * num_repeats]):
        shared = Text(num_tokens=each.shared, seed=seeds())
        own = each.prompt - each.shared
        rounds.append(
            tuple(
                AppCall(
                    name=f"{each.role}_{number}_{index}",
                    prompt=(shared, Text(num_tokens=own, seed=seeds())) if own else (shared,),
                    num_output_tokens=each.output,
                )
                for index in range(num_files)
            )
        )
    return Application(kind="team", rounds=tuple(rounds))


def chat_request(rng: Random) -> Application:
    """Figure 18: a first turn like ShareGPT's, at most 1,024 tokens in and 2,048 in all."""
    num_tokens = max(4, min(1024, int(rng.lognormvariate(4.6, 1.3))))
    output = max(4, min(2048 - num_tokens, int(rng.lognormvariate(5.2, 0.9))))
    return single_call("chat", system=None, query_tokens=num_tokens, output_tokens=output, rng=rng)


def roles(
    rng: Random, *, num_roles: int = 8, manual_tokens: int = 3000, output_tokens: int = 60
) -> Application:
    """Agents in a row, each with a long manual of its own, that it reads before the output it goes on from:
    all but that can be filled before its turn.
    """
    seeds = text_seeds(rng)
    calls: list[AppCall] = []
    for index in range(num_roles):
        before: tuple[Piece, ...] = (Ref(call=calls[-1].name),) if calls else ()
        manual = Text(num_tokens=manual_tokens, seed=seeds())
        prompt = (manual, *before, Text(num_tokens=20, seed=4))
        calls.append(AppCall(name=f"role_{index}", prompt=prompt, num_output_tokens=output_tokens))
    return Application(kind="roles", rounds=(tuple(calls),))


def recheck(
    rng: Random, *, document_tokens: int = 6000, work_tokens: int = 400, output_tokens: int = 50
) -> Application:
    """Read a document, do something long without it, and come back to check that against the document."""
    document = Text(num_tokens=document_tokens, seed=text_seeds(rng)())
    question = Text(num_tokens=20, seed=5)
    calls = (
        AppCall(name="read", prompt=(document, question), num_output_tokens=output_tokens),
        AppCall(
            name="work",
            prompt=(Text(num_tokens=60, seed=6), Ref(call="read"), question),
            num_output_tokens=work_tokens,
        ),
        AppCall(
            name="check",
            prompt=(document, Ref(call="work"), Text(num_tokens=20, seed=7)),
            num_output_tokens=output_tokens,
        ),
    )
    return Application(kind="recheck", rounds=(calls,))


def questions(
    rng: Random, *, num_questions: int = 16, document_tokens: int = 5000, output_tokens: int = 80
) -> Application:
    """Many questions about one document at the same time, then one answer from all of theirs."""
    seeds = text_seeds(rng)
    document = Text(num_tokens=document_tokens, seed=seeds())
    asked = tuple(
        AppCall(
            name=f"question_{index}",
            prompt=(document, Text(num_tokens=30, seed=seeds())),
            num_output_tokens=output_tokens,
        )
        for index in range(num_questions)
    )
    answer = AppCall(
        name="answer",
        prompt=(Text(num_tokens=_INSTRUCTION_TOKENS, seed=8), *(Ref(call=each.name) for each in asked)),
        num_output_tokens=output_tokens,
    )
    return Application(kind="questions", rounds=((*asked, answer),))


def rewrite(rng: Random, *, num_steps: int = 6, output_tokens: int = 600) -> Application:
    """A text is written and rewritten again and again: prompts are hardly more than the output before."""
    calls: list[AppCall] = []
    begin = Text(num_tokens=200, seed=text_seeds(rng)())
    for index in range(num_steps):
        before: Piece = Ref(call=calls[-1].name) if calls else begin
        prompt = (Text(num_tokens=_INSTRUCTION_TOKENS, seed=9), before, Text(num_tokens=20, seed=10))
        calls.append(AppCall(name=f"version_{index}", prompt=prompt, num_output_tokens=output_tokens))
    return Application(kind="rewrite", rounds=(tuple(calls),))


APPLICATIONS: Mapping[str, Callable[[Random], Application]] = {
    "chain": chain_summary,
    "mapreduce": map_reduce_summary,
    "copilot": copilot_request,
    "gpts": gpts_request,
    "team": coding_team,
    "chat": chat_request,
    "roles": roles,
    "recheck": recheck,
    "questions": questions,
    "rewrite": rewrite,
}
"""Applications by name, with their usual parameters."""
