"""Scenarios with a fault of the disk, the clock, the machine or an engine, under load."""

import asyncio
import errno
import json
import random
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2

from reliability import shim
from reliability.findings import Finding, Floor, Zero
from reliability.history import Verdict
from reliability.lives import Lives, wait_gone
from reliability.served_process import Served
from reliability.workload import call, output

NOTICED_WITHIN_S = 10.0
DOWN_S = 1.5
TWO_ENGINES = {"PARROT_ENGINES__MAIN__REPLICAS": "2"}
QUICK_LIVENESS = {
    "PARROT_SERVICE__ENGINE_PING_INTERVAL_S": "0.25",
    "PARROT_SERVICE__ENGINE_DEAD_AFTER_S": "1.5",
    "PARROT_SERVICE__ENGINE_STUCK_AFTER_S": "1.5",
    "PARROT_SERVICE__RESTART_DELAY_S": "0.1",
}


async def until(condition: Callable[[], bool], what: str, timeout_s: float = NOTICED_WITHIN_S) -> float:
    """Wait for something; gives the seconds that it took."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > timeout_s:
            raise TimeoutError(what)
        await asyncio.sleep(0.02)
    return time.monotonic() - began_s


async def store_fault(
    lives: Lives, scenario: str, fault: str, *, strike: Callable[[], None], mend: Callable[[], None]
) -> Finding:
    """The store takes nothing for a while: nothing is acknowledged, reads go on, then all goes on."""
    history, told = lives.history, {"acks": 0, "reads": 0, "unready": 0}
    took_s = 0.0
    served = lives.serve()

    async def go(client: httpx2.AsyncClient) -> None:
        nonlocal took_s
        await until(lambda: len(history.accepted) >= 5, "nothing was acknowledged")
        strike()
        refused = history.counts["refused"]
        try:
            await until(lambda: history.counts["refused"] > refused, "nothing was refused")
            before, reads = len(history.accepted), history.counts["reads"]
            told["unready"] = int((await client.get("/readyz")).status_code == 503)
            await asyncio.sleep(DOWN_S)
            told["acks"], told["reads"] = len(history.accepted) - before, history.counts["reads"] - reads
        finally:
            mend()
        known = len(history.accepted)
        took_s = await until(lambda: len(history.accepted) > known, "it did not recover")
        await asyncio.sleep(0.3)
        served.process.kill()

    try:
        await lives.live(served, go)
    finally:
        served.close()
    verdict = await lives.judge()
    finding = lives.finding(scenario, "P16", verdict, faults={fault: 1}, at_least=10)
    refused = history.counts["refused"]
    return replace(
        finding,
        zeros=(
            *finding.zeros,
            Zero(what="submissions acknowledged meanwhile", count=told["acks"], of=refused),
            Zero(what="seconds in which it called itself ready", count=1 - told["unready"], of=1),
        ),
        floors=(*finding.floors, Floor(what="reads served meanwhile", count=told["reads"], at_least=5)),
        figures={**finding.figures, "seconds_to_recover": round(took_s, 2), "refused": refused},
    )


async def locked_database(directory: Path) -> Finding:
    """Another program holds the file's write lock."""
    lives = Lives(directory, 11, environment={"PARROT_STORE__BUSY_TIMEOUT_S": "0.3"})
    with closing(sqlite3.connect(":memory:")) as nothing:
        held = [nothing]

        def strike() -> None:
            held[0] = sqlite3.connect(directory / "store.db", isolation_level=None)
            held[0].execute("BEGIN IMMEDIATE")

        def mend() -> None:
            held[0].close()

        return await store_fault(
            lives, "Another program locks the database", "locks", strike=strike, mend=mend
        )


async def disk_error(directory: Path, code: int) -> Finding:
    """Writing to the disk fails: it is full, read-only, or broken."""
    names = {
        errno.ENOSPC: ("The disk is full", "ENOSPC"),
        errno.EROFS: ("The disk is read-only", "EROFS"),
        errno.EIO: ("The disk fails to write", "EIO"),
    }
    scenario, fault = names[code]
    faults = shim.Shim(directory)
    lives = Lives(directory, 12, environment=faults.environment())
    return await store_fault(
        lives,
        scenario,
        fault,
        strike=lambda: faults.order("pwrite", code),
        mend=lambda: faults.relent("pwrite"),
    )


async def failing_fsync(directory: Path, *, rounds: int = 3) -> Finding:
    """The disk does not keep what was written: the service ends, and the next start reads what is there."""
    faults = shim.Shim(directory)
    lives = Lives(directory, 13, environment=faults.environment())
    acks, statuses = 0, list[int | None]()
    for _ in range(rounds):
        served = lives.serve()

        async def go(_client: httpx2.AsyncClient, served: Served = served) -> None:
            nonlocal acks
            known = len(lives.history.accepted)
            await until(lambda: len(lives.history.accepted) >= known + 3, "nothing was acknowledged")
            faults.order("fsync", errno.EIO)
            await asyncio.sleep(0.3)
            known = len(lives.history.accepted)
            statuses.append(await wait_gone(served, NOTICED_WITHIN_S))
            acks += len(lives.history.accepted) - known
            faults.relent("fsync")

        try:
            await lives.live(served, go)
        finally:
            faults.relent("fsync")
            served.close()
    verdict = await lives.judge()
    finding = lives.finding("fsync fails", "P1", verdict, faults={"failing fsyncs": rounds}, at_least=3)
    stayed = sum(status != 1 for status in statuses)
    return replace(
        finding,
        zeros=(
            *finding.zeros,
            Zero(what="submissions acknowledged after a failed fsync", count=acks, of=rounds),
            Zero(what="services that went on after it", count=stayed, of=rounds),
        ),
    )


async def clock_jumps(directory: Path) -> Finding:
    """Somebody sets the machine's clock by an hour, back, and to the year 2038."""
    faults = shim.Shim(directory)
    lives = Lives(directory, 14, environment=faults.environment())
    jumps = (3600, -3600, 2_145_916_800 - round(time.time()), -7200)
    served = lives.serve()

    async def go(_client: httpx2.AsyncClient) -> None:
        for jump in jumps:
            await asyncio.sleep(0.5)
            faults.order("clock", jump)
        await asyncio.sleep(0.5)
        served.process.kill()

    try:
        await lives.live(served, go)
    finally:
        served.close()
    verdict = await lives.judge()
    return lives.finding("The wall clock jumps", "P2", verdict, faults={"jumps": len(jumps)}, at_least=20)


async def stopped_and_continued(directory: Path) -> Finding:
    """The service is stopped in the middle of everything, another is started, and the first wakes again."""
    lives, refused = Lives(directory, 15), []
    served = lives.serve()

    async def go(_client: httpx2.AsyncClient) -> None:
        for _ in range(2):
            await asyncio.sleep(0.5)
            served.process.send_signal(signal.SIGSTOP)
            second = lives.serve()
            try:
                refused.append(await wait_gone(second, 30.0))
            finally:
                second.close()
                served.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(1.0)
        served.process.kill()

    try:
        await lives.live(served, go)
    finally:
        served.close()
    verdict = await lives.judge()
    finding = lives.finding(
        "The service is stopped, a second is started, the first wakes", "P2", verdict,
        faults={"SIGSTOP and SIGCONT of the service": 2}, at_least=10,
    )  # fmt: skip
    let_in = sum(status != 1 for status in refused)
    zero = Zero(what="second services let into the store", count=let_in, of=len(refused))
    return replace(finding, zeros=(*finding.zeros, zero))


async def engine_signals(directory: Path, number: signal.Signals, *, rounds: int) -> Finding:
    """Engines are killed, or stopped until they count as dead, under load."""
    lives = Lives(directory, 16, environment={**TWO_ENGINES, **QUICK_LIVENESS})
    chance, struck_wall_s = random.Random(16), list[float]()
    served = lives.serve()

    async def go(client: httpx2.AsyncClient) -> None:
        for _ in range(rounds):
            await asyncio.sleep(chance.uniform(0.3, 0.8))
            before = await _num_restarts(client)
            victims = served.engine_pids()
            if victims:
                _signal(chance.choice(victims), number)
                struck_wall_s.append(time.time())
            async with asyncio.timeout(30):
                while await _num_restarts(client) == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        struck_wall_s.append(time.time())
        served.process.kill()

    try:
        await lives.live(served, go)
    finally:
        served.close()
    verdict = await lives.judge()
    what = {signal.SIGKILL: "are killed", signal.SIGSTOP: "are stopped until they count as dead"}[number]
    *strikes, _ = struck_wall_s
    finding = lives.finding(
        f"Engines {what}", "P5", verdict, faults={f"{number.name} of an engine": len(strikes)}, at_least=20
    )
    again_s = sorted(_placed_again_s(verdict, struck_wall_s))
    if not again_s:
        return finding
    found = {
        "calls_placed_again": len(again_s),
        "seconds_until_placed_again_p50": round(again_s[len(again_s) // 2], 2),
        "seconds_until_placed_again_max": round(again_s[-1], 2),
    }
    return replace(finding, figures={**finding.figures, **found})


def _placed_again_s(verdict: Verdict, struck_wall_s: Sequence[float]) -> Iterator[float]:
    """Of each further placement of a call, the seconds since an engine was struck last. The last time of all
    is when the service was ended; what is placed later is not for an engine's sake.
    """
    for placed in verdict.placed_wall_s.values():
        for wall_s in placed[1:]:
            before = [struck for struck in struck_wall_s if struck <= wall_s]
            if before and len(before) < len(struck_wall_s):
                yield wall_s - before[-1]


async def bad_call(directory: Path, kind: str) -> Finding:
    """One call brings down every engine that takes it, or makes it hang while it still answers its parent."""
    marker = "poison pill"
    environment = {
        **TWO_ENGINES,
        **QUICK_LIVENESS,
        "PARROT_ENGINES__MAIN__FAULTS": json.dumps([{"kind": kind, "marker": marker}]),
    }
    lives = Lives(directory, 17, environment=environment)
    told: dict[str, Any] = {}
    served = lives.serve()

    async def go(client: httpx2.AsyncClient) -> None:
        await asyncio.sleep(0.5)
        session_id = (await client.post("/v1/sessions", json={})).json()["session_id"]
        body = {"calls": [call(f"A {marker}: {{{{out}}}}", {"out": output("bad")})]}
        await client.post(f"/v1/sessions/{session_id}/calls", json=body)
        path = f"/v1/sessions/{session_id}/variables/bad"
        began_s = time.monotonic()
        view = (await client.get(path, params={"wait": 14})).json()
        told["took_s"], told["code"] = time.monotonic() - began_s, (view.get("error") or {}).get("code")
        engines = (await client.get("/v1/engines")).json()["engines"]
        told["restarts"] = sum(engine["num_restarts"] for engine in engines)
        await asyncio.sleep(1.0)
        served.process.kill()

    try:
        await lives.live(served, go)
    finally:
        served.close()
    verdict = await lives.judge()
    does = {"exit": "brings engines down", "hang": "makes engines hang that still answer"}[kind]
    finding = lives.finding(f"A call {does}", "P5", verdict, faults={"such calls": 1}, at_least=10)
    return replace(
        finding,
        zeros=(
            *finding.zeros,
            Zero(what="such calls not quarantined", count=int(told["code"] != "quarantined"), of=1),
        ),
        figures={
            **finding.figures,
            "engines_lost_to_it": told["restarts"],
            "seconds_until_quarantined": round(told["took_s"], 2),
        },
    )


async def no_descriptors(directory: Path) -> Finding:
    """More connections than the service has descriptors for."""
    lives = Lives(directory, 18)
    served = lives.serve(prefix=("prlimit", "--nofile=96"))
    told = {"open": 0, "took_s": 0.0}

    async def go(client: httpx2.AsyncClient) -> None:
        await asyncio.sleep(0.5)
        with ExitStack() as stack:
            for _ in range(200):
                idle = stack.enter_context(socket.socket())
                idle.setblocking(False)
                idle.connect_ex((client.base_url.host, client.base_url.port))
                told["open"] += 1
            await asyncio.sleep(2.0)
        known = len(lives.history.accepted)
        told["took_s"] = await until(lambda: len(lives.history.accepted) > known, "it did not recover")
        served.process.kill()

    try:
        await lives.live(served, go)
    finally:
        served.close()
    verdict = await lives.judge()
    finding = lives.finding(
        "There are no more descriptors",
        "P16",
        verdict,
        faults={"idle connections": int(told["open"])},
        at_least=10,
    )
    return replace(finding, figures={**finding.figures, "seconds_to_recover": round(told["took_s"], 2)})


def _signal(pid: int, number: signal.Signals) -> None:
    import os

    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


async def _num_restarts(client: httpx2.AsyncClient) -> int:
    engines = (await client.get("/v1/engines")).json()["engines"]
    return sum(engine["num_restarts"] for engine in engines)
