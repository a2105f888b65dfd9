"""The whole catalogue of bad input, given to a real service while well-behaved tenants work beside."""

import asyncio
import hashlib
import importlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from reliability.faults import until
from reliability.findings import Finding, Floor, Zero
from reliability.served_process import Served

CATALOGUE = Path(__file__).resolve().parents[2] / "tests" / "integration"
CANARIES = tuple(f"canary_{number}" for number in range(8))
LIMITS = {
    "PARROT_LIMITS__REQUESTS_PER_S": "0",
    "PARROT_LIMITS__TOKENS_PER_MINUTE": "0",
    "PARROT_LIMITS__MAX_SESSIONS": "100000",
    "PARROT_LIMITS__MAX_VALUE_BYTES": "65536",
}
ALONE_S = 6.0
PAUSE_S = 0.05
"""Of a well-behaved tenant, between two programs."""
LONGEST_S = 60.0
AT_ONCE = 4
REFUSED_WITHIN_S = 1.0
LATE = "refusals that took more than a second"


def missing() -> str | None:
    """Why it cannot be done here; None when it can."""
    return None if (CATALOGUE / "bad_input" / "corpus.py").is_file() else "the tests are not here"


@dataclass(slots=True)
class _Canaries:
    """What well-behaved tenants got, in one phase."""

    seconds: list[float] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Answers:
    """What became of bad input."""

    num_inputs: int = 0
    seconds: list[float] = field(default_factory=list)
    """Of refusals: from the request to its answer."""
    faults: list[str] = field(default_factory=list)
    """Answers that are the service's own failure, and inputs that got none."""


async def catalogue(directory: Path, *, rounds: int, alone_s: float = ALONE_S) -> Finding:
    """Every input of the catalogue, some at once, so many times over."""
    seen = directory / "seen.json"
    corpus = _corpus()
    async with _service(directory, seen, key=corpus.KEY_A) as (served, of):
        alone, beside, answers = _Canaries(), _Canaries(), _Answers()
        await _with_canaries(of, alone, lambda: asyncio.sleep(alone_s))
        served.process.send_signal(signal.SIGUSR1)
        await _with_canaries(of, beside, lambda: _give(of["bad"], corpus, rounds, answers))
        served.process.send_signal(signal.SIGUSR2)
        await until(seen.exists, "the service did not tell what it saw")
        ended = served.process.poll()
    watched = json.loads(seen.read_text(encoding="utf-8"))
    return _finding(alone, beside, answers, watched, ended=ended is not None)


def _finding(
    alone: _Canaries, beside: _Canaries, answers: _Answers, watched: dict[str, Any], *, ended: bool
) -> Finding:
    events: Counter[str] = Counter(watched["events"])
    texts = alone.texts | beside.texts
    late = sum(seconds > REFUSED_WITHIN_S for seconds in answers.seconds)
    return Finding(
        scenario="The whole catalogue of bad input, beside tenants that behave well",
        promise="P6, P9, P11",
        faults={"bad or odd inputs": answers.num_inputs},
        zeros=(
            Zero(
                what="inputs answered by a fault of the service, or not at all",
                count=len(answers.faults),
                of=answers.num_inputs,
            ),
            Zero(what=LATE, count=late, of=len(answers.seconds)),
            Zero(
                what="programs of other tenants that failed, or gave another text",
                count=len(beside.problems) + max(0, len(texts) - 1),
                of=len(beside.seconds) + len(beside.problems),
            ),
            Zero(
                what="code run, programs started, connections made because of an input",
                count=events.total(),
                of=answers.num_inputs,
            ),
            Zero(what="services that ended", count=int(ended), of=1),
        ),
        floors=(
            Floor(what="inputs", count=answers.num_inputs, at_least=250),
            Floor(what="programs of other tenants beside", count=len(beside.seconds), at_least=50),
        ),
        figures={
            "refusal_ms_p50": round(1000 * _percentile(answers.seconds, 0.5), 1),
            "refusal_ms_max": round(1000 * max(answers.seconds, default=0.0), 1),
            "event_loop_late_ms_max": round(1000 * watched["loop_lag_s"], 1),
            "memory_growth_mib_max": round(watched["memory_growth_bytes"] / (1 << 20), 1),
            "other_tenants_ms_p99_before": round(1000 * _percentile(alone.seconds, 0.99), 1),
            "other_tenants_ms_p99_beside": round(1000 * _percentile(beside.seconds, 0.99), 1),
        },
        problems=(*answers.faults, *alone.problems, *beside.problems, *sorted(events))[:20],
    )


def _corpus() -> Any:
    """The catalogue that the tests have."""
    before = sys.path[:]
    sys.path[:0] = [str(CATALOGUE), str(CATALOGUE / "bad_input")]
    try:
        return importlib.import_module("corpus")
    finally:
        sys.path[:] = before


@asynccontextmanager
async def _service(
    directory: Path, seen: Path, *, key: str
) -> AsyncIterator[tuple[Served, dict[str, httpx2.AsyncClient]]]:
    """A watched service, and a client of each tenant; `bad` has the catalogue's own key."""
    keys = {"bad": key, **{tenant: f"key-of-{tenant}" for tenant in CANARIES}}
    hashed = [f"{tenant}:{hashlib.sha256(one.encode()).hexdigest()}" for tenant, one in keys.items()]
    served = Served(
        ["--engine", "scripted", "--port", "0", "--db", "store.db"],
        directory,
        {**LIMITS, "PARROT_SERVER__KEYS": json.dumps(hashed)},
        watched=seen,
    )
    clients = dict[str, httpx2.AsyncClient]()
    try:
        url = await asyncio.to_thread(served.url)
        for tenant, one in keys.items():
            headers = {"Authorization": f"Bearer {one}"}
            clients[tenant] = httpx2.AsyncClient(base_url=url, timeout=LONGEST_S, headers=headers)
        yield served, clients
    finally:
        for client in clients.values():
            await client.aclose()
        await asyncio.to_thread(served.close)


async def _with_canaries(
    of: dict[str, httpx2.AsyncClient], seen: _Canaries, work: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Have well-behaved tenants run programs until `work` is done."""
    done = asyncio.Event()

    async def behave(client: httpx2.AsyncClient) -> None:
        while not done.is_set():
            began_s = time.perf_counter()
            try:
                seen.texts.add(await _program(client))
            except (httpx2.HTTPError, KeyError, ValueError) as error:
                seen.problems.append(f"a well-behaved tenant got {type(error).__name__}: {error}"[:200])
            else:
                seen.seconds.append(time.perf_counter() - began_s)
            await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as group:
        for tenant in CANARIES:
            group.create_task(behave(of[tenant]))
        try:
            await work()
        finally:
            done.set()


async def _program(client: httpx2.AsyncClient) -> str:
    """Two calls, the second over what the first said; its text."""
    sid = (await _checked(client.post("/v1/sessions", json={"name": "canary"})))["session_id"]
    sampling = {"max_tokens": 8, "ignore_eos": True, "temperature": 0, "seed": 7}
    first = {"output": {"variable": "a", "sampling": sampling}}
    second = {"output": {"variable": "b", "sampling": sampling}}
    calls = [
        {"template": "Say something. {{out}}", "parameters": {"out": first}},
        {"template": "{{a}} And more? {{out}}", "parameters": {"a": {"variable": "a"}, "out": second}},
    ]
    await _checked(client.post(f"/v1/sessions/{sid}/calls", json={"calls": calls}))
    view = await _checked(client.get(f"/v1/sessions/{sid}/variables/b", params={"wait": 30}))
    (await client.delete(f"/v1/sessions/{sid}")).raise_for_status()
    return str(view["value"])


async def _checked(request: Coroutine[Any, Any, httpx2.Response]) -> dict[str, Any]:
    answer = (await request).raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


async def _give(client: httpx2.AsyncClient, corpus: Any, rounds: int, answers: _Answers) -> None:
    """The catalogue's inputs, some at once."""
    port = client.base_url.port
    assert port is not None
    turns = asyncio.Semaphore(AT_ONCE)
    work: list[Callable[[], Coroutine[Any, Any, None]]] = []
    for _ in range(rounds):
        work += [partial(_refused, client, case, answers) for case in corpus.REFUSALS]
        work += [partial(_raw, port, case, answers) for case in corpus.RAW]
        work += [partial(_odd, client, case, answers) for case in corpus.OUTCOMES]

    async def take(one: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with turns:
            answers.num_inputs += 1
            await one()

    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(take(one))


async def _refused(client: httpx2.AsyncClient, case: Any, answers: _Answers) -> None:
    sid = (await _checked(client.post("/v1/sessions", json={})))["session_id"]
    headers = [(name.encode(), value.encode("latin-1")) for name, value in case.headers.items()]
    began_s = time.perf_counter()
    try:
        answer = await client.request(
            case.method, case.path.replace("{sid}", sid), content=case.body, headers=headers
        )
    except httpx2.TransportError as error:
        answers.faults.append(f"{case.row}: {type(error).__name__}")
        return
    answers.seconds.append(time.perf_counter() - began_s)
    if answer.status_code >= 500:
        answers.faults.append(f"{case.row}: {answer.status_code}")
    await client.delete(f"/v1/sessions/{sid}")


async def _raw(port: int, case: Any, answers: _Answers) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(case.data)
        said = await asyncio.wait_for(reader.read(), LONGEST_S)
    except (OSError, TimeoutError) as error:
        said = type(error).__name__.encode()
    finally:
        writer.close()
    status = said.split(b" ")[1:2]
    if not status or not status[0].isdigit() or int(status[0]) in (500, 502, 504):
        answers.faults.append(f"{case.row}: {said[:40]!r}")


async def _odd(client: httpx2.AsyncClient, case: Any, answers: _Answers) -> None:
    """What is allowed: its output gets a value or an error of its own."""
    sid = (await _checked(client.post("/v1/sessions", json={})))["session_id"]
    answer = await client.post(f"/v1/sessions/{sid}/calls", json={"calls": [case.call]})
    if answer.status_code >= 500:
        answers.faults.append(f"{case.row}: {answer.status_code}")
    elif answer.status_code == 202:
        variable = answer.json()["calls"][0]["outputs"]["out"]["variable_id"]
        view = await client.get(f"/v1/sessions/{sid}/variables/{variable}", params={"wait": 30})
        if view.status_code != 200 or view.json()["state"] == "pending":
            answers.faults.append(f"{case.row}: {view.status_code} {view.text[:60]}")
    await client.delete(f"/v1/sessions/{sid}")


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))] if values else 0.0
