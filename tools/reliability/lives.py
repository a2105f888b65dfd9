"""Scenarios in which a service lives many times over one store, with one history judged at the end."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2

from reliability.crash_points import CRASH_POINTS
from reliability.findings import Finding, Floor, Zero
from reliability.history import History, Verdict
from reliability.postgres_server import PostgresServer
from reliability.served_process import Served
from reliability.workload import ENVIRONMENT, Workload

CRASH_LIFE_S = 30.0
"""So long a service has to come to the instant at which it kills itself."""
MAX_LIFE_S = 1.2
REQUEST_TIMEOUT_S = 15.0


@dataclass
class Lives:
    """One service's lives over one store."""

    directory: Path
    seed: int
    store: tuple[str, ...] = ("--db", "store.db")
    environment: dict[str, str] = field(default_factory=dict)
    history: History = field(default_factory=History)
    ready_s: list[float] = field(default_factory=list)
    """How long each life took until it served."""

    def __post_init__(self) -> None:
        self.workload = Workload(self.history, seed=self.seed)

    def serve(self, crash_at: str | None = None, prefix: Sequence[str] = ()) -> Served:
        """Start the service once more."""
        arguments = ["--engine", "scripted", "--port", "0", *self.store]
        environment = {**ENVIRONMENT, **self.environment}
        return Served(arguments, self.directory, environment, crash_at=crash_at, prefix=prefix)

    async def live(self, served: Served, until: Callable[[httpx2.AsyncClient], Awaitable[None]]) -> bool:
        """Use a service until it is gone, while `until` does something to it; False when it never served."""
        began_s = time.monotonic()
        url = await asyncio.to_thread(served.url_or_none)
        if url is None:
            return False
        self.ready_s.append(time.monotonic() - began_s)
        async with httpx2.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
            try:
                await self.workload.begin(client)
            except httpx2.HTTPError:
                await wait_gone(served, REQUEST_TIMEOUT_S)
                return True
            living = asyncio.create_task(self.workload.live(client))
            try:
                await until(client)
            finally:
                living.cancel()
                for ended in await asyncio.gather(living, return_exceptions=True):
                    if isinstance(ended, Exception):
                        raise ended
        return True

    async def judge(self) -> Verdict:
        """Serve once more, have everything resolve, and judge."""
        served = self.serve()
        try:
            url = await asyncio.to_thread(served.url)
            async with httpx2.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
                await self.workload.begin(client)
                await self.workload.settle(client)
                graph, log = await self.workload.close(client)
        finally:
            served.close()
        return self.history.verdict(graph, log)

    def finding(
        self, scenario: str, promise: str, verdict: Verdict, *, faults: dict[str, int], at_least: int
    ) -> Finding:
        """The judgement as a finding."""
        acknowledged, resolved = verdict.num_acknowledged, verdict.num_resolved
        return Finding(
            scenario=scenario,
            promise=promise,
            faults=faults,
            zeros=(
                Zero(what="acknowledged variables lost", count=len(verdict.lost), of=acknowledged),
                Zero(
                    what="acknowledged variables that ended wrongly",
                    count=len(verdict.wrong),
                    of=acknowledged,
                ),
                Zero(what="variables resolved twice", count=len(verdict.double), of=resolved),
                Zero(what="calls run again after their end", count=len(verdict.run_again), of=resolved),
                Zero(
                    what="duplicates made by a submission sent again",
                    count=verdict.duplicate_calls,
                    of=verdict.num_replays,
                ),
            ),
            floors=(Floor(what="variables acknowledged", count=acknowledged, at_least=at_least),),
            figures={
                "sessions_opened_and_deleted": verdict.num_deleted,
                "executions_of_a_call_mean": round(verdict.mean_executions, 3),
                "executions_of_a_call_max": verdict.max_executions,
                "attempts_of_a_call_mean": round(verdict.mean_attempt, 3),
                "attempts_of_a_call_max": verdict.max_attempt,
                "seconds_to_serve_again_max": round(max(self.ready_s, default=0.0), 2),
            },
            problems=verdict.faults()[:20],
        )


async def wait_gone(served: Served, timeout_s: float) -> int | None:
    """The exit status of a service that is to end by itself; None when it does not."""
    try:
        return await asyncio.to_thread(served.end, None, timeout_s)
    except TimeoutError:
        return None
    except Exception as error:
        if type(error).__name__ != "TimeoutExpired":
            raise
        return None


async def random_kills(directory: Path, *, num_kills: int, seed: int = 1) -> Finding:
    """SIGKILL at random instants, most under load and some while it starts."""
    lives, chance = Lives(directory, seed), random.Random(seed)
    num_starting = 0
    for life in range(num_kills):
        served = lives.serve()
        try:
            if life % 8 == 7:
                await asyncio.sleep(chance.uniform(0.2, 1.2))
                num_starting += 1
                served.process.kill()
                await wait_gone(served, REQUEST_TIMEOUT_S)
                continue

            async def kill(_client: httpx2.AsyncClient, served: Served = served) -> None:
                await asyncio.sleep(chance.uniform(0.05, MAX_LIFE_S))
                served.process.kill()

            await lives.live(served, kill)
        finally:
            served.close()
    verdict = await lives.judge()
    faults = {"SIGKILL under load": num_kills - num_starting, "SIGKILL while starting": num_starting}
    return lives.finding(
        "The service is killed at random instants", "P1", verdict, faults=faults, at_least=4 * num_kills
    )


async def crash_points(
    directory: Path, *, points: Sequence[str] = CRASH_POINTS, passages: Sequence[int] = (3,), seed: int = 2
) -> Finding:
    """The service kills itself at each named instant, one after the other over one store."""
    return await _die_at(
        Lives(directory, seed), "The service dies at each named instant", points=points, passages=passages
    )


async def _die_at(lives: Lives, scenario: str, *, points: Sequence[str], passages: Sequence[int]) -> Finding:
    missed, struck, in_recovery = list[str](), 0, 0
    for passage in passages:
        for point in points:
            once = point.startswith(("recovery", "purge")) or point.endswith("call_retried")
            number = 1 if once else passage
            served = lives.serve(crash_at=f"{point}*{number}")
            try:

                async def wait(_client: httpx2.AsyncClient, served: Served = served) -> None:
                    await wait_gone(served, CRASH_LIFE_S)

                if not await lives.live(served, wait):
                    in_recovery += 1
                if await wait_gone(served, CRASH_LIFE_S) == -signal.SIGKILL:
                    struck += 1
                else:
                    missed.append(point)
            finally:
                served.close()
    verdict = await lives.judge()
    finding = lives.finding(
        scenario,
        "P1",
        verdict,
        faults={
            "named instants": len(points),
            "deaths there": struck,
            "of these before it served": in_recovery,
        },
        at_least=2 * len(points),
    )
    floor = Floor(what="deaths at a named instant", count=struck, at_least=len(points) * len(passages))
    problems = (*finding.problems, *(f"never came to {point}" for point in missed))
    return replace(finding, floors=(*finding.floors, floor), problems=problems)


async def postgres_crash_points(
    directory: Path, *, points: Sequence[str] = CRASH_POINTS, passages: Sequence[int] = (3,), seed: int = 4
) -> Finding:
    """The same over PostgreSQL."""
    server = await asyncio.to_thread(PostgresServer)
    try:
        lives = Lives(directory, seed, store=(), environment={"PARROT_STORE__URL": server.url()})
        scenario = "Over PostgreSQL the service dies at each named instant"
        return await _die_at(lives, scenario, points=points, passages=passages)
    finally:
        await asyncio.to_thread(server.close)


async def postgres_kills(directory: Path, *, num_rounds: int, seed: int = 3) -> Finding:
    """Over PostgreSQL: the service and the server are killed in turn, the server while the service lives."""
    server = await asyncio.to_thread(PostgresServer)
    lives = Lives(directory, seed, store=(), environment={"PARROT_STORE__URL": server.url()})
    chance, num_server = random.Random(seed), 0
    try:
        for life in range(num_rounds):
            served = lives.serve()

            async def strike(_client: httpx2.AsyncClient, life: int = life, served: Served = served) -> None:
                nonlocal num_server
                for _ in range(1 + life % 2):
                    await asyncio.sleep(chance.uniform(0.1, MAX_LIFE_S))
                    await asyncio.to_thread(server.stop)
                    num_server += 1
                    await asyncio.sleep(chance.uniform(0.0, 1.0))
                    await asyncio.to_thread(server.start)
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                served.process.kill()

            try:
                await lives.live(served, strike)
            finally:
                served.close()
        verdict = await lives.judge()
    finally:
        await asyncio.to_thread(server.close)
    faults = {"SIGKILL of the service": num_rounds, "immediate stops of PostgreSQL": num_server}
    return lives.finding(
        "PostgreSQL and the service go down in turn", "P1", verdict, faults=faults, at_least=4 * num_rounds
    )
