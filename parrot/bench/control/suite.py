"""Drives a service over HTTP and measures what its control plane costs."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Literal, get_args

from parrot.bench.control.connection import Connection, connected
from parrot.bench.control.graphs import body_of, independent, linked, map_reduce, waiting
from parrot.bench.control.report import Chain, Growth, LargeSession, Memory, Quantiles, Throughput
from parrot.bench.process_load import ProcessLoad, process_load
from parrot.bench.spread import spread
from parrot.errors import UnreachableError
from parrot.ports.clock import Clock

Section = Literal["batches", "single", "chain", "session", "growth", "memory"]
SECTIONS: tuple[Section, ...] = get_args(Section)

MAPS = 99
"""Of one submission; with the call that joins them it has 100 calls."""
_SUBMISSION_CALLS = 1000
"""Of a large session or of a crowd of waiting calls."""
_SESSION_WAITING_CALLS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlan:
    """What is measured, and how much of it."""

    sections: tuple[Section, ...] = SECTIONS
    repeats: int = 3
    """Of each rate."""
    batch_calls: int = 8_000
    """Calls of one repeat in batches."""
    single_calls: int = 1_500
    """Calls of one repeat one by one."""
    batch_connections: int = 4
    """Clients that submit batches at the same time."""
    single_connections: int = 32
    """Clients that submit call by call at the same time."""
    chain_length: int = 1_000
    session_calls: int = 10_000
    live_calls: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    growth_calls: int = 3_000
    """Calls of one repeat beside so many live ones."""

    def quick(self) -> "ControlPlan":
        """The same, small: a look, not a result."""
        return ControlPlan(
            sections=self.sections,
            repeats=1,
            batch_calls=400,
            single_calls=40,
            single_connections=8,
            chain_length=40,
            session_calls=400,
            live_calls=(20, 200),
            growth_calls=200,
        )


class ControlSuite:
    """Measures one service. The service's process has the identifier `pid`."""

    def __init__(self, url: str, pid: int, plan: ControlPlan, *, clock: Clock) -> None:
        self._url = url
        self._pid = pid
        self._plan = plan
        self._clock = clock
        self._numbers = count()

    async def warm_up(self) -> None:
        """A few submissions, not counted."""
        await self._batches(400)
        await self._singles(40)

    async def batches(self) -> Throughput:
        """Submissions of 100 calls."""
        return await self._throughput(
            self._batches, self._plan.batch_calls, MAPS + 1, self._plan.batch_connections
        )

    async def single(self) -> Throughput:
        """Submissions of one call, each answered with its value."""
        return await self._throughput(
            self._singles, self._plan.single_calls, 1, self._plan.single_connections
        )

    async def chain(self) -> Chain:
        """One chain submitted whole, and one step by step."""
        length = self._plan.chain_length
        async with self._session() as (connection, path):
            await connection.request("POST", f"{path}/calls", body_of(linked("c", length)))
            await self._value(connection, path, f"c_o{length - 1}")
            graph = await connection.json("GET", f"{path}/graph")
        done = sorted(call["times"]["done_s"] for call in graph["calls"])
        added = [after - before for before, after in pairwise(done)]
        trips = []
        async with self._session() as (connection, path):
            for number, one in enumerate(linked("c", max(2, length // 5))):
                began_s = self._clock.now_s()
                await self._run(connection, path, [one], f"c_o{number}")
                trips.append(self._clock.now_s() - began_s)
        return Chain(length=length, added_s=quantiles(added), round_trip_s=quantiles(trips))

    async def session(self) -> LargeSession:
        """One session with many calls: pieces, and every hundred of them joined."""
        total = self._plan.session_calls
        async with self._session() as (connection, path):
            began_s = self._clock.now_s()
            wanted = []
            for batch in range(total // (MAPS + 1)):
                calls, output = map_reduce(f"b{batch}", MAPS)
                wanted.append(output)
                await connection.request("POST", f"{path}/calls", body_of(calls))
            submitted_s = self._clock.now_s() - began_s
            for output in wanted:
                await self._value(connection, path, output)
            done_s = self._clock.now_s() - began_s
            await self._check_done(connection, path, total // (MAPS + 1) * (MAPS + 1))
            began_s = self._clock.now_s()
            await connection.request("GET", f"{path}/graph")
            graph_s = self._clock.now_s() - began_s
        return LargeSession(
            num_calls=total,
            submitted_s=submitted_s,
            done_s=done_s,
            calls_per_s=total / done_s,
            graph_s=graph_s,
        )

    async def growth(self) -> tuple[Growth, ...]:
        """The same work beside more and more calls that wait."""
        found: list[Growth] = []
        async with AsyncExitStack() as stack:
            live = 0
            for target in self._plan.live_calls:
                await self._add_waiting(stack, target - live)
                live = target
                before = self._load()
                rates = await self._rates(self._batches, self._plan.growth_calls)
                after, rate = self._load(), spread(rates)
                first = found[0].s_per_call if found else 1 / rate.median
                found.append(
                    Growth(
                        num_live_calls=live,
                        calls_per_s=rate,
                        s_per_call=1 / rate.median,
                        against_first=1 / rate.median / first,
                        service_cpu_s_per_call=_cpu(
                            before, after, self._plan.growth_calls * self._plan.repeats
                        ),
                        rss_bytes=after.rss_bytes if after else None,
                    )
                )
        return tuple(found)

    async def memory(self) -> Memory | None:
        """Resident memory with calls that wait, and with calls that have ended."""
        idle = self._load()
        if idle is None:
            return None
        num_calls = max(self._plan.live_calls) // 5
        async with AsyncExitStack() as stack:
            await self._add_waiting(stack, num_calls)
            crowded = self._load() or idle
        settled = self._load() or idle
        async with AsyncExitStack() as stack:
            num_done = 0
            while num_done < num_calls:
                num_done += await self._add_done(stack, min(_SESSION_WAITING_CALLS, num_calls - num_done))
            done = self._load() or settled
        after = self._load() or settled
        return Memory(
            idle_bytes=idle.rss_bytes,
            per_waiting_call_bytes=(crowded.rss_bytes - idle.rss_bytes) / num_calls,
            num_waiting_calls=num_calls,
            per_done_call_bytes=(done.rss_bytes - settled.rss_bytes) / num_done,
            num_done_calls=num_done,
            after_delete_bytes=after.rss_bytes,
        )

    # ── parts ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _throughput(
        self, work: Callable[[int], Awaitable[int]], num_calls: int, batch_calls: int, num_connections: int
    ) -> Throughput:
        before = self._load()
        rates = await self._rates(work, num_calls)
        total = num_calls * self._plan.repeats
        return Throughput(
            batch_calls=batch_calls,
            num_connections=num_connections,
            num_calls=total,
            calls_per_s=spread(rates),
            service_cpu_s_per_call=_cpu(before, self._load(), total),
        )

    async def _rates(self, work: Callable[[int], Awaitable[int]], num_calls: int) -> list[float]:
        return [await self._timed(work, num_calls) for _ in range(self._plan.repeats)]

    async def _timed(self, work: Callable[[int], Awaitable[int]], num_calls: int) -> float:
        """Calls a second."""
        began_s = self._clock.now_s()
        done = await work(num_calls)
        return done / (self._clock.now_s() - began_s)

    async def _batches(self, num_calls: int) -> int:
        """Sessions that each submit batches of 100, each answered with its last call's value."""
        workers = self._plan.batch_connections
        batches = max(1, num_calls // (MAPS + 1) // workers)

        async def work() -> None:
            async with self._session() as (connection, path):
                for batch in range(batches):
                    await self._run(connection, path, *map_reduce(f"b{batch}", MAPS))
                await self._check_done(connection, path, batches * (MAPS + 1))

        await _together(work, workers)
        return batches * (MAPS + 1) * workers

    async def _singles(self, num_calls: int) -> int:
        """Sessions that each submit one call after the other, each when the last one's value is there."""
        workers = self._plan.single_connections
        each = max(1, num_calls // workers)

        async def work() -> None:
            async with self._session() as (connection, path):
                for number in range(each):
                    await self._run(connection, path, [independent("i", number)], f"i_o{number}")
                await self._check_done(connection, path, each)

        await _together(work, workers)
        return each * workers

    async def _add_waiting(self, stack: AsyncExitStack, num_calls: int) -> None:
        """Open sessions, until the stack ends, with so many calls that wait for a variable."""
        while num_calls > 0:
            connection, path = await stack.enter_async_context(self._session())
            here = min(num_calls, _SESSION_WAITING_CALLS)
            for begin in range(0, here, _SUBMISSION_CALLS):
                numbers = range(begin, min(here, begin + _SUBMISSION_CALLS))
                body = body_of([waiting("w", number, "never") for number in numbers])
                await connection.request("POST", f"{path}/calls", body)
            num_calls -= here

    async def _add_done(self, stack: AsyncExitStack, num_calls: int) -> int:
        connection, path = await stack.enter_async_context(self._session())
        batches = max(1, num_calls // (MAPS + 1))
        for batch in range(batches):
            await self._run(connection, path, *map_reduce(f"b{batch}", MAPS))
        return batches * (MAPS + 1)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[tuple[Connection, str]]:
        """A session of its own, on a connection of its own, deleted at the end."""
        async with connected(self._url) as connection:
            answer = await connection.json("POST", "/v1/sessions", {"name": f"s{next(self._numbers)}"})
            path = f"/v1/sessions/{answer['session_id']}"
            try:
                yield connection, path
            finally:
                # Another connection: an answer may still be on its way on this one.
                async with connected(self._url) as last:
                    await last.request("DELETE", path)

    async def _run(
        self, connection: Connection, path: str, calls: list[dict[str, object]], output: str
    ) -> None:
        """Submit calls and wait for one's output, in one request."""
        answer = await connection.request("POST", f"{path}/run", body_of(calls, output))
        last = answer.rstrip().rpartition(b"\n\n")[2]
        if not last.startswith(b"event: ready"):
            raise UnreachableError(f"variable {output}: {last.decode(errors='replace')}", code="bad_answer")

    async def _value(self, connection: Connection, path: str, name: str) -> None:
        """Wait until a variable is ready."""
        while True:
            answer = json.loads(await connection.request("GET", f"{path}/variables/{name}?wait=60"))
            if answer["state"] == "ready":
                return
            if answer["state"] == "failed":
                raise UnreachableError(f"variable {name} failed: {answer['error']}", code="bad_answer")

    async def _check_done(self, connection: Connection, path: str, num_calls: int) -> None:
        """No call was lost."""
        counts = (await connection.json("GET", path))["calls"]
        if counts["done"] != num_calls:
            raise UnreachableError(
                f"{num_calls} calls were submitted, and there are {counts}", code="bad_answer"
            )

    def _load(self) -> ProcessLoad | None:
        return process_load(self._pid)


def quantiles(values: Sequence[float]) -> Quantiles:
    """Of at least one value."""
    ordered = sorted(values)

    def at(part: float) -> float:
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    return Quantiles(p50=at(0.5), p90=at(0.9), p99=at(0.99), max=ordered[-1], num_samples=len(ordered))


async def _together(work: Callable[[], Coroutine[None, None, None]], count: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(work())


def _cpu(before: ProcessLoad | None, after: ProcessLoad | None, num_calls: int) -> float | None:
    return None if before is None or after is None else (after.cpu_s - before.cpu_s) / num_calls
