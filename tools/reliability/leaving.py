"""Leaving frees everything: calls at every stage, whose clients then all go at once, each in its own way."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from reliability.findings import Finding, Floor, Zero
from reliability.served_process import Served
from reliability.workload import call, output

SLOW = {
    "PARROT_ENGINES__MAIN__PREFILL_TOKENS_PER_S": "2000",
    "PARROT_ENGINES__MAIN__DECODE_STEP_S": "0.02",
    "PARROT_ENGINES__MAIN__TOKENS_PER_STEP": "1",
    "PARROT_ENGINES__MAIN__MAX_BATCH": "8",
    "PARROT_ENGINES__MAIN__CONTEXT_TOKENS": "32768",
    "PARROT_LIMITS__REQUESTS_PER_S": "0",
    "PARROT_LIMITS__TOKENS_PER_MINUTE": "0",
}
"""An engine that would go on for many seconds with what it is given here."""
BOUND_S = 2.0
GIVEN_UP_S = 20.0
LONG_WORDS = 3000
GAUGES = (
    "parrot_calls_running",
    "parrot_calls_waiting",
    "parrot_waiters",
    "parrot_prefixes_wanted",
    "parrot_engine_running",
    "parrot_engine_waiting",
    "parrot_engine_owned_blocks",
)
"""What must be 0 when no session is open."""
DESCRIPTORS = "descriptors"

Left = Callable[[], Awaitable[object]]


class Crowd:
    """Clients of one round, on connections of their own."""

    def __init__(self, url: str, chance: random.Random) -> None:
        self._client = httpx2.AsyncClient(base_url=url, timeout=30)
        self._chance = chance
        self._reading: list[asyncio.Task[None]] = []
        self._leave: list[Left] = []
        self._paths: list[str] = []
        self.num_calls = 0
        self.num_requests = 0

    async def come(self) -> None:
        """Have calls at every stage, and readers of all kinds."""
        waits = await self._session()
        await self._submit(waits, call("{{x}} {{out}}", {"x": {"variable": "never"}, "out": _out("o")}))
        self._poll(waits, "o")
        decoding = await self._session()
        await self._submit(decoding, *(call(f"Say {n}: {{{{out}}}}", {"out": _out(f"o{n}")}) for n in (0, 1)))
        self._stream(decoding, "o0")
        self._poll(decoding, "o1")
        follows = await self._session()
        first = call("Begin: {{out}}", {"out": _out("a")})
        second = call(
            "{{w}} {{a}} {{out}}",
            {"w": {"value": self._words()}, "a": {"variable": "a"}, "out": _out("b")},
        )
        await self._submit(follows, first, second)
        self._events(follows)
        ahead = await self._session()
        await self._submit(
            ahead,
            call(
                "{{w}} {{x}} {{out}}",
                {"w": {"value": self._words()}, "x": {"variable": "never"}, "out": _out("o")},
            ),
        )
        prefilling = await self._session()
        long = call("{{w}} {{out}}", {"w": {"value": self._words()}, "out": _out("o")})
        await self._submit(prefilling, long)
        self._stream(prefilling, "o")
        queued = await self._session()
        await self._submit(
            queued, *(call(f"Later {n}: {{{{out}}}}", {"out": _out(f"o{n}")}) for n in range(12))
        )
        self._poll(queued, "o11")
        for stream in (True, False):
            body = {"model": "scripted", "prompt": "Complete", "max_tokens": 2000, "ignore_eos": True}
            self._read("POST", "/v1/completions", body | {"stream": stream})
            self.num_calls += 1

    async def go(self) -> None:
        """All leave at once: connections are cut, sessions cancelled or deleted."""
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*(leave() for leave in self._leave), *self._reading, return_exceptions=True)
        await self._client.aclose()

    async def clear_away(self, client: httpx2.AsyncClient) -> None:
        """Delete the sessions that were cancelled only, too."""
        for path in self._paths:
            await client.delete(path)

    def _words(self) -> str:
        return " ".join(f"w{self._chance.randrange(10**6)}" for _ in range(LONG_WORDS))

    async def _session(self) -> str:
        sid: str = (await self._client.post("/v1/sessions", json={})).json()["session_id"]
        path = f"/v1/sessions/{sid}"
        self._paths.append(path)
        if self._chance.random() < 0.5:
            self._leave.append(lambda: self._client.delete(path))
        else:
            self._leave.append(lambda: self._cancel(path))
        return sid

    async def _cancel(self, path: str) -> None:
        (await self._client.post(f"{path}/cancel", json={})).raise_for_status()

    async def _submit(self, sid: str, *calls: dict[str, Any]) -> None:
        answer = await self._client.post(f"/v1/sessions/{sid}/calls", json={"calls": calls})
        answer.raise_for_status()
        self.num_calls += len(calls)

    def _poll(self, sid: str, name: str) -> None:
        self._read("GET", f"/v1/sessions/{sid}/variables/{name}?wait=30")

    def _stream(self, sid: str, name: str) -> None:
        self._read("GET", f"/v1/sessions/{sid}/variables/{name}/stream")

    def _events(self, sid: str) -> None:
        self._read("GET", f"/v1/sessions/{sid}/events")

    def _read(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        self._reading.append(asyncio.ensure_future(self._read_on(method, path, body)))
        self.num_requests += 1

    async def _read_on(self, method: str, path: str, body: dict[str, Any] | None) -> None:
        with suppress(httpx2.HTTPError):
            async with self._client.stream(method, path, json=body) as answer:
                async for _ in answer.aiter_bytes():
                    continue


async def leaving(directory: Path, *, rounds: int, seed: int = 31) -> Finding:
    """Programs are at every stage, then all their clients leave at once; again and again."""
    chance = random.Random(seed)
    served = Served(["--engine", "scripted", "--port", "0", "--db", "store.db"], directory, SLOW)
    reclaim_s, late, num_calls, num_requests, most_blocks = list[float](), set[str](), 0, 0, 0.0
    try:
        url = await asyncio.to_thread(served.url)
        async with httpx2.AsyncClient(base_url=url, timeout=30) as observer:
            pid = served.process.pid
            before = dict.fromkeys(GAUGES, 0.0) | {DESCRIPTORS: (await standing(observer, pid))[DESCRIPTORS]}
            for _ in range(rounds):
                crowd = Crowd(url, chance)
                await crowd.come()
                await asyncio.sleep(chance.uniform(0.0, 1.5))
                most_blocks = max(most_blocks, (await standing(observer, pid))["parrot_engine_owned_blocks"])
                began_s = time.monotonic()
                await crowd.go()
                left = await until_as_before(observer, pid, before, began_s)
                reclaim_s.append(time.monotonic() - began_s)
                if reclaim_s[-1] > BOUND_S:
                    late |= left
                await crowd.clear_away(observer)
                num_calls, num_requests = num_calls + crowd.num_calls, num_requests + crowd.num_requests
    finally:
        await asyncio.to_thread(served.close)
    reclaim_s.sort()
    return Finding(
        scenario="Clients leave while their calls are at every stage",
        promise="P13",
        faults={"calls left": num_calls, "streams and waiting requests cut": num_requests},
        zeros=(
            Zero(
                what="times that memory, calls, readers or descriptors were not as before two seconds later",
                count=sum(seconds > BOUND_S for seconds in reclaim_s),
                of=len(reclaim_s),
            ),
        ),
        floors=(
            Floor(what="times that everybody left at once", count=len(reclaim_s), at_least=10),
            Floor(what="blocks of memory held at most", count=int(most_blocks), at_least=50),
        ),
        figures={
            "seconds_until_all_is_free_p50": round(reclaim_s[len(reclaim_s) // 2], 2),
            "seconds_until_all_is_free_p99": round(reclaim_s[int(0.99 * (len(reclaim_s) - 1))], 2),
        },
        problems=tuple(f"not as before in time: {name}" for name in sorted(late)),
    )


async def standing(client: httpx2.AsyncClient, pid: int) -> dict[str, float]:
    """What stands now. Of the descriptors not those of the store's file, of which there are as many as ever
    were used at once.
    """
    found = dict.fromkeys(GAUGES, 0.0)
    for line in (await client.get("/metrics")).text.splitlines():
        name, _, value = line.rpartition(" ")
        name = name.partition("{")[0]
        if name in found:
            found[name] += float(value)
    return found | {DESCRIPTORS: sum(not target.startswith("/") for target in _descriptors(pid))}


def _descriptors(pid: int) -> Iterator[str]:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            yield str(link.readlink())


async def until_as_before(
    client: httpx2.AsyncClient, pid: int, before: dict[str, float], began_s: float
) -> set[str]:
    """Wait until nothing stands that did not before; what was left after `BOUND_S`."""
    late = set[str]()
    while time.monotonic() < began_s + GIVEN_UP_S:
        now = await standing(client, pid)
        left = {name for name, value in now.items() if value > before[name]}
        if not left:
            break
        if time.monotonic() > began_s + BOUND_S:
            late |= left
        await asyncio.sleep(0.01)
    return late


def _out(name: str) -> dict[str, Any]:
    return output(name, max_tokens=2000)
