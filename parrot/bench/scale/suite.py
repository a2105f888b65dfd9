"""Runs the parts in rounds, and checks that nothing is lost and nothing piles up."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import count
from os import getloadavg

import httpx2

import parrot
from parrot.bench.apps.network import DelayedTransport, http_client, network
from parrot.bench.apps.texts import DrawnTexts
from parrot.bench.control.suite import quantiles
from parrot.bench.origin import commit, machine, versions
from parrot.bench.probe import probed
from parrot.bench.process_load import process_load
from parrot.bench.processes import ServerProcess, parrot_service
from parrot.bench.scale.applications import TEAM_CALLS, book, chat, coding_team
from parrot.bench.scale.report import SCHEMA, Part, ScaleReport
from parrot.ports.clock import Clock
from parrot.sdk.session import Session
from parrot.wire.answers import EngineList, SessionView

_LOOKS = 20
_LOOK_AGAIN_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePlan:
    """How much is run."""

    rounds: int = 3
    """All parts, so often."""
    num_maps: int = 2_000
    """Parts of the book."""
    num_chats: int = 200
    """At the same time."""
    num_teams: int = 50
    """At the same time."""
    num_engines: int = 4
    prefill_tokens_per_s: float = 8_000.0
    """Of one engine; about an 8 B model on one current accelerator."""
    decode_step_s: float = 0.025
    """Of one engine's batch."""
    num_blocks: int = 20_480
    """Of 16 tokens, of one engine: 40 GiB at the 128 KiB that a token of an 8 B model takes. Caches are full
    within the first round, so what grows after it is a leak.
    """
    faster: float = 4.0
    """Engines are faster than that by this factor, so that it ends soon; the service has as much more to do
    in a second."""
    seed: int = 0

    def quick(self) -> "ScalePlan":
        """The same, small: a look, not a result."""
        return ScalePlan(
            rounds=1, num_maps=60, num_chats=5, num_teams=2, num_engines=2, faster=20, seed=self.seed
        )

    def settings(self) -> str:
        """The service's settings, as TOML."""
        return f"""\
[engines.main]
kind = "scripted"
replicas = {self.num_engines}
prefill_tokens_per_s = {self.prefill_tokens_per_s * self.faster}
decode_step_s = {self.decode_step_s / self.faster}
max_batch = 64
num_blocks = {self.num_blocks}

[limits]
max_sessions = 1000
"""


@dataclass(slots=True, kw_only=True)
class _Counts:
    """What one part does, as it goes on."""

    num_sessions: int = 0
    num_calls: int = 0
    num_lost: int = 0
    results_s: list[float] = field(default_factory=list)
    firsts_s: list[float] = field(default_factory=list)


class ScaleSuite:
    """Runs a plan on one service."""

    def __init__(
        self, server: ServerProcess, http: httpx2.AsyncClient, plan: ScalePlan, *, clock: Clock
    ) -> None:
        """`http` is for looking at the service, beside the measured programs."""
        self._server = server
        self._http = http
        self._plan = plan
        self._clock = clock
        self._network = network()
        self._numbers = count()

    async def run(self, tell: Callable[[str], None]) -> list[Part]:
        """All parts of all rounds, one after the other."""
        parts = []
        try:
            for number in range(self._plan.rounds):
                for name, work in (("book", self._book), ("chats", self._chats), ("teams", self._teams)):
                    tell(f"{name}, round {number + 1} of {self._plan.rounds}")
                    parts.append(await self._part(name, number, work))
        finally:
            await self._network.aclose()
        return parts

    async def owned_blocks(self) -> int:
        """KV blocks held for contexts in use, when those of ended sessions had time to be given back."""
        for _ in range(_LOOKS):
            if not await self._owned_blocks():
                break
            await self._clock.sleep(_LOOK_AGAIN_S)
        return await self._owned_blocks()

    async def _owned_blocks(self) -> int:
        response = await self._http.get("/v1/engines")
        engines = EngineList.model_validate_json(response.raise_for_status().content).engines
        return sum(engine.num_owned_blocks for engine in engines)

    async def _part(self, name: str, number: int, work: Callable[[_Counts, str], Awaitable[None]]) -> Part:
        counts = _Counts()
        async with probed(self._server.url) as answers:
            began_s = self._clock.now_s()
            await work(counts, f"{self._plan.seed}/{number}/{name}")
            duration_s = self._clock.now_s() - began_s
        load = process_load(self._server.pid)
        return Part(
            name=name,
            round=number,
            num_sessions=counts.num_sessions,
            num_calls=counts.num_calls,
            num_lost=counts.num_lost,
            duration_s=duration_s,
            calls_per_s=counts.num_calls / duration_s,
            result_s=quantiles(counts.results_s),
            first_text_s=quantiles(counts.firsts_s) if counts.firsts_s else None,
            answer_s=quantiles(answers),
            rss_bytes=load.rss_bytes if load else None,
        )

    async def _book(self, counts: _Counts, seed: str) -> None:
        async def read(session: Session) -> int:
            num_calls, results = book(session, DrawnTexts(seed=seed), self._plan.num_maps)
            await session.gather(*results, objective="latency")
            return num_calls

        await self._in_session(counts, read, is_result=True)

    async def _chats(self, counts: _Counts, seed: str) -> None:
        async def talk(session: Session) -> int:
            texts = DrawnTexts(seed=seed)
            return await chat(session, texts, self._clock, counts.results_s, counts.firsts_s)

        await _together(self._in_session(counts, talk, is_result=False) for _ in range(self._plan.num_chats))

    async def _teams(self, counts: _Counts, seed: str) -> None:
        async def develop(session: Session) -> int:
            results = await coding_team(session, DrawnTexts(seed=f"{seed}/{session.name}"))
            await session.gather(*results, objective="latency")
            return TEAM_CALLS

        await _together(
            self._in_session(counts, develop, is_result=True) for _ in range(self._plan.num_teams)
        )

    async def _in_session(
        self, counts: _Counts, program: Callable[[Session], Awaitable[int]], *, is_result: bool
    ) -> None:
        """Run a program that gives how many calls it made, and count those that the service has done."""
        began_s = self._clock.now_s()
        wires = DelayedTransport(self._network, rtt_s=0.0, clock=self._clock)
        name = f"program_{next(self._numbers)}"
        async with parrot.connect(self._server.url, transport=wires, name=name) as session:
            num_calls = await program(session)
            if is_result:
                counts.results_s.append(self._clock.now_s() - began_s)
            view = await self._view(session)
        counts.num_sessions += 1
        counts.num_calls += num_calls
        counts.num_lost += num_calls - view.calls.done

    async def _view(self, session: Session) -> SessionView:
        response = await self._http.get(f"/v1/sessions/{session.id}")
        return SessionView.model_validate_json(response.raise_for_status().content)


async def run_scale(plan: ScalePlan, *, clock: Clock, tell: Callable[[str], None]) -> ScaleReport:
    """Measure.

    Raises:
        UnreachableError: the service did not start.
        ParrotError: a call failed.
    """
    started_at, began_s = datetime.now(UTC).isoformat(timespec="seconds"), clock.now_s()
    load = getloadavg()[0]
    async with parrot_service(plan.settings()) as server, http_client(server.url) as http:
        idle = process_load(server.pid)
        suite = ScaleSuite(server, http, plan, clock=clock)
        parts = await suite.run(tell)
        owned_blocks = await suite.owned_blocks()
    sizes = [part.rss_bytes for part in parts if part.name == parts[-1].name and part.rss_bytes]
    return ScaleReport(
        schema=SCHEMA,
        started_at=started_at,
        duration_s=clock.now_s() - began_s,
        machine=machine(),
        load_average=load,
        versions=versions(("fastapi", "httpx2", "pydantic", "uvicorn")),
        source=commit(),
        settings={**asdict(plan), "service": plan.settings()},
        idle_rss_bytes=idle.rss_bytes if idle else None,
        parts=tuple(parts),
        num_lost=sum(part.num_lost for part in parts),
        rss_growth=sizes[-1] / sizes[0] if sizes else None,
        owned_blocks=owned_blocks,
        command="parrot bench scale",
    )


async def _together(programs: Iterable[Coroutine[None, None, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for program in programs:
            group.create_task(program)
