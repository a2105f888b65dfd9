"""Work that arrives by rate, whether or not the server keeps up (open loop), as a mix of streams."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from parrot.bench.apps.applications import (
    APPLICATIONS,
    Application,
    Run,
    Step,
    Text,
    answer,
    complete,
    system_texts,
)
from parrot.bench.apps.records import Usage
from parrot.bench.apps.side import Outcome, Side
from parrot.ports.clock import Clock

CHAIN_STARTS_AT_S = 3.0
"""The background is there before the chain is."""
CHAIN_EVERY_S = 10.0
MAP_REDUCE_EVERY_S = 8.0
CHAT_WORDS = 200
BACKGROUND_WORDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One user or program that comes at its time."""

    at_s: float
    """From the run's start."""
    stream: str
    application: Application
    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much comes, and for how long."""

    rate: float
    """Requests a second of the stream that comes by rate."""
    duration_s: float
    """Nothing comes after this; what has come is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingWork:
    """A mix of streams."""

    name: str
    title: str
    arrivals: Callable[[Run, Load, Random], Sequence[Arrival]]
    foreground: str
    """The stream whose completion times are compared."""
    users: str
    """The stream whose requests count as goodput."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One arrival that ran to its end."""

    stream: str
    outcome: Outcome


def poisson(load: Load, chance: Random) -> Iterator[float]:
    """Times of arrival with exponential gaps."""
    at_s = chance.expovariate(load.rate)
    while at_s < load.duration_s:
        yield at_s
        at_s += chance.expovariate(load.rate)


def assistants_by_rate(run: Run, load: Load, chance: Random) -> list[Arrival]:
    """Users of four assistants, each with a long system prompt."""
    systems = system_texts(run)

    def application(number: int) -> Application:
        one = systems[number % len(systems)]

        async def ask(step: Step, mine: Run) -> Sequence[Text]:
            question = mine.texts.words(mine.size.words(20), "question")
            return [await step(answer(one.answer_tokens), system=one.text, question=question)]

        return Application(name="assistant", title="", run=ask, objective="latency", streams=True)

    return [
        Arrival(at_s=at_s, stream="users", application=application(chance.randrange(len(systems))), run=mine)
        for at_s, mine in zip(poisson(load, chance), _runs(run), strict=False)
    ]


def chats_and_map_reduces(run: Run, load: Load, chance: Random) -> list[Arrival]:
    """Chat users, and a map-reduce every so often (figure 18)."""
    users = _single("chat", run, load, chance, words=CHAT_WORDS, objective_is_latency=True)
    batch = replace(APPLICATIONS["mapreduce"], objective="throughput")
    times = _every(MAP_REDUCE_EVERY_S, load, first_s=1.0)
    return users + [
        Arrival(at_s=at_s, stream="mapreduce", application=batch, run=mine)
        for at_s, mine in zip(times, _runs(run, "batch"), strict=False)
    ]


def chain_and_background(run: Run, load: Load, chance: Random) -> list[Arrival]:
    """A chain now and then, while single requests come by rate (figure 12a)."""
    background = _single("background", run, load, chance, words=BACKGROUND_WORDS, objective_is_latency=False)
    times = _every(CHAIN_EVERY_S, load, first_s=min(CHAIN_STARTS_AT_S, load.duration_s / 2))
    return background + [
        Arrival(at_s=at_s, stream="chain", application=APPLICATIONS["chain"], run=mine)
        for at_s, mine in zip(times, _runs(run, "chain"), strict=False)
    ]


def _single(
    name: str, run: Run, load: Load, chance: Random, *, words: int, objective_is_latency: bool
) -> list[Arrival]:
    """Requests of one call each."""

    async def ask(step: Step, mine: Run) -> Sequence[Text]:
        prompt = mine.texts.words(mine.size.words(words), "prompt")
        return [await step(complete(mine.size.tokens(50)), prompt=prompt)]

    application = Application(
        name=name,
        title="",
        run=ask,
        objective="latency" if objective_is_latency else "throughput",
        streams=objective_is_latency,
    )
    return [
        Arrival(at_s=at_s, stream=name, application=application, run=mine)
        for at_s, mine in zip(poisson(load, chance), _runs(run, name), strict=False)
    ]


def _every(gap_s: float, load: Load, *, first_s: float) -> Iterator[float]:
    at_s = first_s
    while at_s < load.duration_s:
        yield at_s
        at_s += gap_s


def _runs(run: Run, stream: str = "") -> Iterator[Run]:
    """The same, with other texts for each arrival."""
    number = 0
    while True:
        yield replace(run, texts=run.texts.of(f"{stream} {number}"))
        number += 1


async def serve(
    side: Side, arrivals: Sequence[Arrival], *, rtt_s: float, clock: Clock
) -> tuple[list[Served], float]:
    """Let all come at their times, and wait for all; also gives how long that took."""
    began_s = clock.now_s()

    async def come(arrival: Arrival) -> Served:
        await clock.sleep(max(0.0, began_s + arrival.at_s - clock.now_s()))
        outcome = await side.run(arrival.application, arrival.run, rtt_s=rtt_s)
        return Served(stream=arrival.stream, outcome=outcome)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(come(arrival)) for arrival in arrivals]
    return [task.result() for task in tasks], clock.now_s() - began_s


def together(served: Sequence[Served], duration_s: float) -> Outcome:
    """All arrivals as if they were one run."""
    usages = [one.outcome.usage for one in served]
    cached = [one.cached_tokens for one in usages if one.cached_tokens is not None]
    return Outcome(
        jct_s=duration_s,
        num_requests=sum(one.outcome.num_requests for one in served),
        usage=Usage(
            num_calls=sum(one.num_calls for one in usages),
            prompt_tokens=sum(one.prompt_tokens for one in usages),
            cached_tokens=sum(cached) if len(cached) == len(usages) else None,
            output_tokens=sum(one.output_tokens for one in usages),
        ),
        calls=[call for one in served for call in one.outcome.calls],
    )


def goodput(served: Sequence[Served], duration_s: float, *, bound_s: float) -> float:
    """Requests a second whose time for each output token kept the bound."""
    kept = [
        one
        for one in served
        if one.outcome.usage.output_tokens and one.outcome.jct_s / one.outcome.usage.output_tokens <= bound_s
    ]
    return len(kept) / duration_s


SERVING = {
    one.name: one
    for one in (
        ServingWork(
            name="gpts-rate",
            title="Four assistants, Poisson arrivals",
            arrivals=assistants_by_rate,
            foreground="users",
            users="users",
        ),
        ServingWork(
            name="chat-mapreduce",
            title="Chats beside map-reduces",
            arrivals=chats_and_map_reduces,
            foreground="mapreduce",
            users="chat",
        ),
        ServingWork(
            name="chain-background",
            title="Chains beside single requests",
            arrivals=chain_and_background,
            foreground="chain",
            users="background",
        ),
    )
}
"""By the name that `--work` takes."""
