"""The patterns eager and lazy on one service, as a result file for the page of measurements.

    parrot serve --model DIR --name NAME --port 8321
    python examples/langchain/measure.py [--url URL] [--rtt SECONDS …] [--runs N] [--out DIRECTORY]

Every answer has its full length, so that both ways generate the same number of tokens; and every run has a
first message of its own, so that none finds another's prompts. The ways take turns. With `--rtt`, the service
is so far away.
"""

import argparse
import json
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from os import getloadavg
from pathlib import Path

import httpx2
from delay import far_away
from patterns import EDITOR, MAX_TOKENS, PATTERNS, Cost, measured

from parrot.bench.origin import Commit, Machine, commit, machine, versions
from parrot.bench.spread import Spread, spread
from parrot.integrations.langchain import ChatParrot, lazy

SCHEMA = "parrot.bench.langchain/1"
WAYS = ("eager", "lazy")
PACKAGES = ("langchain-core", "langchain-openai", "langgraph", "openai", "httpx2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What a pattern took, run in one way."""

    seconds: Spread
    prefilled_tokens: float
    """The median run's."""
    decoded_tokens: float
    """The median run's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """One pattern at one distance, both ways."""

    pattern: str
    rtt_s: float
    num_calls: int
    num_edges: int
    eager: Way
    lazy: Way
    gain: Spread
    """How many times sooner the lazy run ended; run by run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was measured."""

    schema: str
    started_at: str
    duration_s: float
    machine: Machine
    load_average: float
    """Of the minute before."""
    versions: dict[str, str]
    source: Commit | None
    engine: str
    """As the service describes it."""
    model: str
    max_tokens: int
    runs: int
    patterns: tuple[Pattern, ...]
    command: str
    """Measures the same again."""


def measure(url: str, rtts_s: list[float], runs: int) -> Report:
    """Run everything."""
    started_at, began_s, load = (
        datetime.now(UTC).isoformat(timespec="seconds"),
        time.perf_counter(),
        getloadavg()[0],
    )
    (engine, *_) = httpx2.get(f"{url}/v1/engines").json()["engines"]
    found: list[Pattern] = []
    for rtt_s in rtts_s:
        with far_away(url, rtt_s / 2) if rtt_s else nullcontext(url) as address:
            model = ChatParrot(
                model=engine["model"],
                base_url=f"{address}/v1",
                max_tokens=MAX_TOKENS,
                extra_body={"ignore_eos": True},
            )
            model.invoke("Hello")
            found += [one_pattern(name, model, url, rtt_s, runs) for name in PATTERNS]
    return Report(
        schema=SCHEMA,
        started_at=started_at,
        duration_s=time.perf_counter() - began_s,
        machine=machine(),
        load_average=load,
        versions=versions(PACKAGES),
        source=commit(),
        engine=engine["description"],
        model=engine["model"],
        max_tokens=MAX_TOKENS,
        runs=runs,
        patterns=tuple(found),
        command=" ".join(
            [
                "python examples/langchain/measure.py",
                f"--runs {runs}",
                *(f"--rtt {rtt_s:g}" for rtt_s in rtts_s),
            ]
        ),
    )


def one_pattern(name: str, model: ChatParrot, url: str, rtt_s: float, runs: int) -> Pattern:
    """One pattern, both ways in turn."""
    costs: dict[str, list[Cost]] = {way: [] for way in WAYS}
    chain, given = PATTERNS[name](model, f"Warm-up {time.time_ns()} {name}. {EDITOR}")
    seen = lazy(chain, keep_graph=True)
    seen.invoke(given)
    (graph,) = seen.last_graphs
    for number in range(runs):
        for way in WAYS if number % 2 else reversed(WAYS):
            chain, given = PATTERNS[name](model, f"Run {time.time_ns()} {name} {way}. {EDITOR}")
            runnable = lazy(chain) if way == "lazy" else chain
            costs[way].append(measured(lambda run=runnable, value=given: run.invoke(value), url)[1])
    gains = [
        eager.seconds / quick.seconds for eager, quick in zip(costs["eager"], costs["lazy"], strict=True)
    ]
    made = Pattern(
        pattern=name,
        rtt_s=rtt_s,
        num_calls=len(graph.nodes),
        num_edges=len(graph.edges),
        eager=summed(costs["eager"]),
        lazy=summed(costs["lazy"]),
        gain=spread(gains),
    )
    print(
        f"{name:<12}{rtt_s * 1000:>5.0f} ms{made.eager.seconds.median:>8.2f} s"
        f"{made.lazy.seconds.median:>8.2f} s"
        f"{made.gain.median:>7.2f}×{made.eager.prefilled_tokens:>9,.0f}{made.lazy.prefilled_tokens:>9,.0f}"
    )
    return made


def summed(costs: list[Cost]) -> Way:
    """Runs together."""
    return Way(
        seconds=spread(one.seconds for one in costs),
        prefilled_tokens=spread(one.prefilled_tokens for one in costs).median,
        decoded_tokens=spread(one.decoded_tokens for one in costs).median,
    )


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8321")
    parser.add_argument("--rtt", type=float, action="append", help="Seconds to the service and back.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, help="A directory, such as benchmarks/results.")
    given = parser.parse_args()
    report = measure(given.url, given.rtt or [0.0], given.runs)
    if given.out is not None:
        moment = report.started_at.partition("+")[0].replace("-", "").replace(":", "")
        file = given.out / f"langchain-{moment}.json"
        file.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
        print(f"written to {file}")


if __name__ == "__main__":
    main()
