"""From what was asked for to a report: the service is started, the versions take turns, and all is ended."""

import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from os import getloadavg
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx2

from parrot.bench.apps.network import http_client
from parrot.bench.apps.texts import DrawnTexts
from parrot.bench.migration.clients import VERSIONS, Client, Version, interpreter, missing, started
from parrot.bench.migration.link import Link
from parrot.bench.migration.records import SCHEMA, MigrationReport, Skipped, VersionRun, VersionSummary
from parrot.bench.origin import commit, machine, versions
from parrot.bench.processes import keeping, parrot_service
from parrot.bench.spread import spread
from parrot.ports.clock import Clock
from parrot.wire.answers import EngineList

SETTLE_S = 0.6
"""Engines tell their counts a few times a second."""
NUM_OTHER_CALLS = 3
"""Query, draft and report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationPlan:
    """What is run."""

    num_groups: int = 4
    num_documents: int = 5
    """Of each group."""
    rules_words: int = 400
    """With which every prompt begins."""
    document_words: int = 100
    rtts_s: tuple[float, ...] = (0.0, 0.25)
    """Added to each request."""
    runs: int = 3
    """Of each version, at each round trip."""
    seed: int = 0
    """Seeds all texts."""

    @property
    def num_calls(self) -> int:
        """Of one run."""
        return self.num_groups * (self.num_documents + 1) + NUM_OTHER_CALLS

    def job(self, key: str) -> dict[str, object]:
        """The input of one run; another key, other texts of the same lengths."""
        texts = DrawnTexts(seed=f"{self.seed}/{key}")
        groups = [
            [texts.words(self.document_words, f"{group}/{number}") for number in range(self.num_documents)]
            for group in range(self.num_groups)
        ]
        rules, question = texts.words(self.rules_words, "rules"), texts.words(20, "question")
        return {"rules": rules, "question": question, "groups": groups}


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationRequest:
    """What was asked for."""

    plan: MigrationPlan
    engine: str
    """`torch` or `scripted`."""
    model: Path | None
    """Of a torch engine."""
    clients: Path | None
    """A virtual environment that has what the versions need; None: the one that runs this."""


async def run_migration(
    request: MigrationRequest, *, clock: Clock, tell: Callable[[str], None]
) -> MigrationReport:
    """Measure all versions.

    Raises:
        ConfigError: what was asked for cannot be.
        UnreachableError: the service or a version did not do what it should.
    """
    python = interpreter(request.clients)
    started_at, began_s = datetime.now(UTC).isoformat(timespec="seconds"), clock.now_s()
    load = getloadavg()[0]
    chosen, skipped = await _chosen(python, tell)
    async with AsyncExitStack() as stack:
        tell("starting parrot serve")
        server = await stack.enter_async_context(parrot_service(settings_of(request)))
        http = await stack.enter_async_context(http_client(server.url))
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="parrot-bench-")))
        link = await stack.enter_async_context(Link(server.url, clock=clock).open())
        engines = await _engines(http)
        clients = []
        for version in chosen:
            tell(f"starting {version.name}")
            opened = started(python, version, url=link.url, model=engines.engines[0].model)
            clients.append(await stack.enter_async_context(opened))
        turns = _Turns(request.plan, clients, link, http, directory, clock=clock)
        runs = turns.done
        with keeping(runs, tell) as interruption:
            await turns.run_all(tell)
    return MigrationReport(
        schema=SCHEMA,
        started_at=started_at,
        duration_s=clock.now_s() - began_s,
        machine=machine(),
        load_average=load,
        versions=versions(("httpx2", "torch", "transformers", "uvicorn")),
        source=commit(),
        settings=asdict(request.plan),
        service=", ".join(f"{one.model} on {one.device}, {one.description}" for one in engines.engines),
        num_calls=request.plan.num_calls,
        runs=tuple(runs),
        summaries=tuple(summaries(runs)),
        skipped=tuple(skipped),
        interrupted=interruption.happened,
        command=command_of(request),
    )


def settings_of(request: MigrationRequest) -> str:
    """The settings of the service, as TOML."""
    if request.engine == "scripted":
        return '[engines.main]\nkind = "scripted"\nprefill_tokens_per_s = 20000\ndecode_step_s = 0.002\n'
    return f'[engines.main]\nkind = "torch"\nmodel_dir = {json.dumps(str(request.model))}\n'


def command_of(request: MigrationRequest) -> str:
    """The command line that measures the same again."""
    words = ["parrot bench migration", f"--runs {request.plan.runs}"]
    words += [f"--rtt {rtt_s:g}" for rtt_s in request.plan.rtts_s]
    words += ["--engine scripted"] * (request.engine == "scripted")
    words += ["--clients VENV"] * (request.clients is not None)
    return " ".join(words)


def summaries(runs: list[VersionRun]) -> Iterator[VersionSummary]:
    """All runs, summed up by version and round trip."""
    for rtt_s in dict.fromkeys(run.rtt_s for run in runs):
        there = [run for run in runs if run.rtt_s == rtt_s]
        first: float | None = None
        for version in VERSIONS:
            own = [run for run in there if run.version == version.name]
            if not own:
                continue
            seconds = median(run.seconds for run in own)
            first = seconds if first is None else first
            yield VersionSummary(
                version=version.name,
                title=version.title,
                rtt_s=rtt_s,
                seconds=spread(run.seconds for run in own),
                num_requests=spread(run.num_requests for run in own),
                num_round_trips=spread(run.num_round_trips for run in own),
                prefilled_tokens=spread(run.prefilled_tokens for run in own),
                decoded_tokens=spread(run.decoded_tokens for run in own),
                gain=first / seconds,
            )


async def _chosen(python: str, tell: Callable[[str], None]) -> tuple[list[Version], list[Skipped]]:
    """The versions that can be run, and why the others cannot."""
    chosen, skipped = [], []
    for version in VERSIONS:
        lacking = await missing(python, version)
        if lacking:
            reason = f"{', '.join(lacking)} is not installed"
            tell(f"{version.name} is left out: {reason}")
            skipped.append(Skipped(version=version.name, reason=reason))
        else:
            chosen.append(version)
    return chosen, skipped


async def _engines(http: httpx2.AsyncClient) -> EngineList:
    response = await http.get("/v1/engines")
    return EngineList.model_validate_json(response.raise_for_status().content)


class _Turns:
    """The versions in turn; another begins in each round."""

    def __init__(
        self,
        plan: MigrationPlan,
        clients: list[Client],
        link: Link,
        http: httpx2.AsyncClient,
        directory: Path,
        *,
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._clients = clients
        self._link = link
        self._http = http
        self._directory = directory
        self._clock = clock
        self.done: list[VersionRun] = []
        """Runs that have ended."""
        self._counted = (0, 0)
        """Tokens so far, when the last run had ended."""

    async def run_all(self, tell: Callable[[str], None]) -> None:
        """Every run of the plan."""
        self._counted = await self._counts()
        for rtt_s in self._plan.rtts_s:
            self._link.rtt_s = rtt_s
            for number in range(self._plan.runs):
                turn = number % max(1, len(self._clients))
                for client in (*self._clients[turn:], *self._clients[:turn]):
                    run = await self._run(client, rtt_s, number)
                    tell(f"{run.version}, {rtt_s * 1000:g} ms, run {number + 1}: {run.seconds:.2f} s")
                    self.done.append(run)

    async def _run(self, client: Client, rtt_s: float, number: int) -> VersionRun:
        name = client.version.name
        job = self._directory / "job.json"
        # Texts of its own, so that nothing is there from another's run.
        job.write_text(json.dumps(self._plan.job(f"{name}/{rtt_s}/{number}")), encoding="utf-8")
        before = self._counted
        self._link.begin()
        seconds = await client.run(job)
        requests, round_trips = self._link.num_requests, self._link.num_round_trips
        after = self._counted = await self._counts()
        return VersionRun(
            version=name,
            rtt_s=rtt_s,
            run=number,
            seconds=seconds,
            num_requests=requests,
            num_round_trips=round_trips,
            prefilled_tokens=after[0] - before[0],
            decoded_tokens=after[1] - before[1],
        )

    async def _counts(self) -> tuple[int, int]:
        """Prefilled and decoded tokens of all engines so far."""
        await self._clock.sleep(SETTLE_S)
        engines = (await _engines(self._http)).engines
        return (
            sum(engine.num_prefilled_tokens for engine in engines),
            sum(engine.num_decoded_tokens for engine in engines),
        )


def quick(plan: MigrationPlan) -> MigrationPlan:
    """Fewer and smaller: a look, not a result."""
    return replace(
        plan, num_groups=2, num_documents=2, rules_words=40, document_words=20, rtts_s=(0.0,), runs=1
    )
