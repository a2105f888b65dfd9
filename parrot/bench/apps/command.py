"""From what was asked for to a report: servers are found or started, sides set up, and all of it ended."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from os import getloadavg
from pathlib import Path
from typing import Literal, get_args

import httpx2

from parrot.bench.apps.gauges import Gauges, ParrotGauges, find_gauges
from parrot.bench.apps.network import http_client, network
from parrot.bench.apps.openai_side import OpenAISide, served_model
from parrot.bench.apps.parrot_side import ParrotSide
from parrot.bench.apps.records import SCHEMA, RunRecord, WorkSummary
from parrot.bench.apps.serving import SERVING
from parrot.bench.apps.suite import AppsPlan, AppsSuite, Contender
from parrot.bench.apps.texts import read_material
from parrot.bench.origin import Commit, Machine, commit, machine, versions
from parrot.bench.processes import (
    ServerProcess,
    keeping,
    llamacpp_python,
    llamacpp_server,
    parrot_service,
    vllm_command,
    vllm_program,
    vllm_server,
)
from parrot.errors import ConfigError, UnreachableError
from parrot.ports.clock import Clock

BaselineKind = Literal["openai", "vllm", "llamacpp"]
MAX_MODEL_LEN = 8192
"""The window that vLLM is started with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppsRequest:
    """What was asked for."""

    plan: AppsPlan
    url: str | None
    """A running Parrot; None starts one."""
    model: Path | None
    engine: str
    """Of the Parrot that is started."""
    baselines: tuple[str, ...] = ()
    """`KIND:WHERE`."""
    baseline_parrot: bool = False
    data: Path | None = None
    stream: bool = False

    @property
    def needs_model(self) -> bool:
        """Whether a server is started that serves a model."""
        starts_one = any(one.startswith(("vllm:", "llamacpp:")) for one in self.baselines)
        return (self.url is None and self.engine == "torch") or starts_one

    def with_model(self, model: Path) -> "AppsRequest":
        """The same, with that model."""
        return replace(self, model=model)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReport:
    """One server that took part."""

    name: str
    url: str
    model: str
    settings: dict[str, str]
    """As the server tells them, and its command line when it was started here."""
    started_here: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AppsReport:
    """All that was measured."""

    schema: str
    started_at: str
    duration_s: float
    machine: Machine
    load_average: float
    """Of the minute before."""
    versions: dict[str, str]
    source: Commit | None
    plan: AppsPlan
    data: bool
    """Texts and lengths came from data; otherwise words were drawn."""
    stream: bool
    servers: tuple[ServerReport, ...]
    runs: tuple[RunRecord, ...]
    works: tuple[WorkSummary, ...]
    interrupted: bool
    """It was stopped before its plan was through."""
    command: str
    """Measures the same again."""


async def run_apps(
    request: AppsRequest,
    *,
    clock: Clock,
    tell: Callable[[str], None],
    on_run: Callable[[RunRecord], None],
) -> AppsReport:
    """Measure what was asked for; `on_run` sees each run as it ends.

    Raises:
        ConfigError: what was asked for cannot be.
        UnreachableError: a server is not there, or does not do what it should.
    """
    material = read_material(request.data)
    started_at, began_s = datetime.now(UTC).isoformat(timespec="seconds"), clock.now_s()
    load = getloadavg()[0]
    servers: list[ServerReport] = []
    async with AsyncExitStack() as stack:
        contenders = [contender async for contender in _contenders(request, stack, servers, clock, tell)]
        suite = AppsSuite(contenders, request.plan, material, clock=clock)
        tell("warming up")
        await suite.warm_up()
        with keeping(suite.records, tell) as interruption:
            async for record in suite.records_of(tell):
                on_run(record)
    return AppsReport(
        schema=SCHEMA,
        started_at=started_at,
        duration_s=clock.now_s() - began_s,
        machine=machine(),
        load_average=load,
        versions=versions(("httpx2", "torch", "transformers", "uvicorn")),
        source=commit(),
        plan=request.plan,
        data=request.data is not None,
        stream=request.stream,
        servers=tuple(servers),
        runs=tuple(suite.records),
        works=tuple(suite.summaries()),
        interrupted=interruption.happened,
        command=command_of(request),
    )


def command_of(request: AppsRequest) -> str:
    """The command line that measures the same again, with places named as `DIR`, `VENV` and `URL`."""
    plan = request.plan
    words = ["parrot bench apps", f"--work {','.join(plan.works)}", f"--runs {plan.runs}"]
    words += [f"--rtt {rtt_s:g}" for rtt_s in plan.rtts_s]
    words += [
        f"--baseline {one.partition(':')[0]}:{_PLACES[one.partition(':')[0]]}" for one in request.baselines
    ]
    words += ["--baseline-parrot"] * request.baseline_parrot
    if set(plan.works) & set(SERVING):
        words += [f"--rate {rate:g}" for rate in plan.rates] + [f"--duration {plan.duration_s:g}"]
    words += [f"--scale {plan.scale:g}"] * (plan.scale != 1)
    words += ["--engine scripted"] * (request.engine == "scripted" and request.url is None)
    words += ["--url URL"] * (request.url is not None)
    words += ["--data DIR"] * (request.data is not None) + ["--stream"] * request.stream
    return " ".join(words)


_PLACES = {"openai": "URL", "vllm": "VENV", "llamacpp": "VENV"}


async def _contenders(
    request: AppsRequest,
    stack: AsyncExitStack,
    servers: list[ServerReport],
    clock: Clock,
    tell: Callable[[str], None],
) -> AsyncIterator[Contender]:
    for text in request.baselines:
        await _check(text)
    url = request.url
    if url is None:
        tell("starting parrot serve")
        url = (await stack.enter_async_context(parrot_service(settings_of(request)))).url
    http = await stack.enter_async_context(http_client(url))
    gauges = ParrotGauges(http)
    try:
        settings = await gauges.settings()
    except (httpx2.HTTPError, ValueError) as error:
        raise UnreachableError(f"no Parrot answers at {url}: {error}", code="bad_answer") from error
    model, _ = await served_model(url)
    servers.append(
        ServerReport(
            name="parrot", url=url, model=model, settings=dict(settings), started_here=request.url is None
        )
    )
    wires = await stack.enter_async_context(network())
    yield Contender(side=ParrotSide(url, wires, http, clock=clock), gauges=gauges, server=url)
    if request.baseline_parrot:
        side = OpenAISide(url, wires, model, clock=clock, name="parrot-completions", stream=request.stream)
        yield Contender(side=side, gauges=gauges, server=url)
    for number, text in enumerate(request.baselines):
        kind, _, where = text.partition(":")
        yield await _baseline(
            request, kind, where, number, stack=stack, servers=servers, clock=clock, tell=tell
        )


async def _check(baseline: str) -> None:
    """Refuse what cannot be a base line, before anything is started."""
    kind, _, where = baseline.partition(":")
    if kind not in get_args(BaselineKind) or not where:
        raise ConfigError(
            f"a base line is openai:URL, vllm:VENV or llamacpp:VENV, not {baseline!r}", param="--baseline"
        )
    if kind == "vllm":
        vllm_program(Path(where))
    elif kind == "llamacpp":
        llamacpp_python(Path(where))
    else:
        await served_model(where)


async def _baseline(
    request: AppsRequest,
    kind: str,
    where: str,
    number: int,
    *,
    stack: AsyncExitStack,
    servers: list[ServerReport],
    clock: Clock,
    tell: Callable[[str], None],
) -> Contender:
    settings: dict[str, str] = {}
    url = where.rstrip("/")
    server: ServerProcess | None = None
    if kind == "vllm":
        assert request.model is not None
        tell("starting vllm, which takes a minute or two")
        venv = Path(where)
        server = await stack.enter_async_context(
            vllm_server(venv, request.model, max_model_len=MAX_MODEL_LEN, clock=clock)
        )
        url = server.url
        command = vllm_command(Path("vllm"), Path("DIR"), port=0, max_model_len=MAX_MODEL_LEN)
        settings["command"] = " ".join(command)
    elif kind == "llamacpp":
        assert request.model is not None
        tell("starting llama.cpp")
        server = await stack.enter_async_context(llamacpp_server(Path(where), request.model, clock=clock))
        url = server.url
        settings["slots"] = "32, one pool of KV of 32,768 tokens, prompts cached, bfloat16"
    model, owner = await served_model(url)
    http = await stack.enter_async_context(http_client(url))
    gauges: Gauges = await find_gauges(http)
    settings |= await gauges.settings()
    version = await _version(http)
    if version:
        settings["version"] = version
    taken = {server.name for server in servers}
    name = owner or "openai"
    name = f"{name}-{number + 1}" if name in taken else name
    servers.append(
        ServerReport(name=name, url=url, model=model, settings=settings, started_here=server is not None)
    )
    wires = await stack.enter_async_context(network())
    side = OpenAISide(url, wires, model, clock=clock, name=name, stream=request.stream)
    return Contender(side=side, gauges=gauges, server=url, process=server)


async def _version(http: httpx2.AsyncClient) -> str | None:
    """What vLLM and some others say of themselves."""
    try:
        response = await http.get("/version")
        return str(response.raise_for_status().json()["version"])
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        return None


def settings_of(request: AppsRequest) -> str:
    """The settings of the service that is started, as TOML."""
    if request.engine == "scripted":
        return '[engines.main]\nkind = "scripted"\nprefill_tokens_per_s = 20000\ndecode_step_s = 0.002\n'
    return f'[engines.main]\nkind = "torch"\nmodel_dir = {json.dumps(str(request.model))}\n'
