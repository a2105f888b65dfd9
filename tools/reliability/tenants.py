"""Scenarios with several tenants: more is asked than can be done, or one looks for another.s by time."""

import asyncio
import hashlib
import json
import math
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from parrot.core.fairness import jain_index
from reliability.findings import Finding, Floor, Zero
from reliability.served_process import Served
from reliability.workload import call, output

TOKENS, STEP_S, BATCH = 10, 0.05, 12
CAPACITY = BATCH / (TOKENS * STEP_S)
"""Calls a second that the engine can do: 24, few enough that the machine has time left."""
HEAVY, LIGHT = "heavy", tuple(f"light_{number}" for number in range(9))
LEVELS = (0.5, 1.0, 2.0, 5.0, 0.5)
"""What is asked, as a multiple of the capacity: nine tenths by the heavy tenant."""
OVERLOADED = {
    "PARROT_ENGINES__MAIN__DECODE_STEP_S": str(STEP_S),
    "PARROT_ENGINES__MAIN__TOKENS_PER_STEP": "1",
    "PARROT_ENGINES__MAIN__MAX_BATCH": str(BATCH),
    "PARROT_LIMITS__REQUESTS_PER_S": "0",
    "PARROT_LIMITS__TOKENS_PER_MINUTE": "0",
    "PARROT_LIMITS__MAX_RUNNING_CALLS": "9",
    "PARROT_LIMITS__MAX_QUEUED_CALLS": "12",
    "PARROT_LIMITS__MAX_QUEUED_CALLS_TOTAL": "48",
}
PREFILL_TOKENS_PER_S = 20_000
METERED = {
    "PARROT_ENGINES__MAIN__PREFILL_TOKENS_PER_S": str(PREFILL_TOKENS_PER_S),
    "PARROT_LIMITS__REQUESTS_PER_S": "0",
    "PARROT_LIMITS__TOKENS_PER_MINUTE": "0",
}
PREFIX_WORDS = 200
OWN_HEADERS = frozenset({"date", "x-request-id"})


def _key(tenant: str) -> str:
    return f"parrot-{hashlib.sha256(tenant.encode()).hexdigest()}"


@asynccontextmanager
async def clients_of(
    directory: Path, tenants: Sequence[str], environment: Mapping[str, str]
) -> AsyncIterator[dict[str, httpx2.AsyncClient]]:
    """A service with keys, and a client of each tenant."""
    keys = [f"{tenant}:{hashlib.sha256(_key(tenant).encode()).hexdigest()}" for tenant in tenants]
    arguments = ["--engine", "scripted", "--port", "0", "--db", "store.db"]
    served = Served(arguments, directory, {**environment, "PARROT_SERVER__KEYS": json.dumps(keys)})
    try:
        url = await asyncio.to_thread(served.url)
        async with AsyncExitStack() as stack:
            limits = httpx2.Limits(max_connections=60, max_keepalive_connections=60)
            yield {
                tenant: await stack.enter_async_context(
                    httpx2.AsyncClient(
                        base_url=url,
                        timeout=60,
                        limits=limits,
                        headers={"Authorization": f"Bearer {_key(tenant)}"},
                    )
                )
                for tenant in tenants
            }
    finally:
        await asyncio.to_thread(served.close)


# ── overload ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Level:
    """What became of what was asked at one rate."""

    times: float
    asked: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    served: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from the request to the value, of each call."""
    done_at_s: list[float] = field(default_factory=list)
    """When values were there, since the level began."""
    refusal_s: list[float] = field(default_factory=list)
    unexplained: int = 0
    """Refusals that do not say when to come again."""
    others: list[str] = field(default_factory=list)
    """Answers that are neither a value nor such a refusal."""

    def goodput(self, until_s: float) -> float:
        """Values a second, the first moments left out."""
        begins_s = min(1.0, until_s / 4)
        return sum(begins_s <= at <= until_s for at in self.done_at_s) / (until_s - begins_s)


async def overload(directory: Path, *, level_s: float) -> Finding:
    """From half of what the engine can do to five times of it, and back."""
    async with clients_of(directory, (HEAVY, *LIGHT), OVERLOADED) as clients:
        sessions = {
            tenant: (await client.post("/v1/sessions", json={})).json()["session_id"]
            for tenant, client in clients.items()
        }
        alone = await _ask_at(0.5, level_s, clients, sessions, tenants=LIGHT)
        levels = [await _ask_at(times, level_s, clients, sessions) for times in LEVELS]
    return _overload_finding(alone, levels, level_s)


def _overload_finding(alone: Level, levels: Sequence[Level], level_s: float) -> Finding:
    goodput = {f"{level.times:g}": level.goodput(level_s) for level in levels[:-1]}
    peak = max(goodput.values())
    crowded, after = levels[-2], levels[-1]
    refusals = [s for level in levels for s in level.refusal_s]
    light_asked = sum(level.asked.get(tenant, 0) for level in levels for tenant in LIGHT)
    light_refused = sum(level.refused.get(tenant, 0) for level in levels for tenant in LIGHT)
    served = sum(len(times) for level in levels for times in level.served.values())
    shares = [len(crowded.served.get(t, ())) / max(1, crowded.asked.get(t, 0)) for t in LIGHT]
    light_alone = _percentile([s for times in alone.served.values() for s in times], 0.95)
    light_crowded = _percentile([s for t in LIGHT for s in crowded.served.get(t, ())], 0.95)
    asked_after = sum(after.asked.values())
    return Finding(
        scenario="More is asked than can be done",
        promise="P12",
        faults={f"seconds at {level.times:g} times of that": round(level_s) for level in levels[1:4]},
        zeros=(
            Zero(
                what="refusals that do not say when to come again",
                count=sum(level.unexplained for level in levels),
                of=len(refusals),
            ),
            Zero(what="refusals of tenants below their share", count=light_refused, of=light_asked),
            Zero(
                what="answers that are neither a value nor a refusal",
                count=sum(len(level.others) for level in levels),
                of=served + len(refusals),
            ),
            Zero(what="refusals once it is over", count=sum(after.refused.values()), of=asked_after),
        ),
        floors=(
            *(
                Floor(
                    what=f"values at {times} times of that, percent of the most",
                    count=_percent(goodput[times], peak),
                    at_least=90,
                )
                for times in ("2", "5")
            ),
            Floor(what="refusals", count=len(refusals), at_least=20),
        ),
        figures={
            **{f"values_a_second_at_{times}_times": round(rate, 1) for times, rate in goodput.items()},
            "what_the_engine_can_do_in_a_second": CAPACITY,
            "jain_index_of_the_light_tenants": round(jain_index(shares), 4),
            "refusal_ms_p50": round(1000 * _percentile(refusals, 0.5), 1),
            "refusal_ms_p95": round(1000 * _percentile(refusals, 0.95), 1),
            "light_tenants_latency_p95_at_5_times_over_alone": round(light_crowded / light_alone, 2),
        },
        problems=tuple(sorted({other for level in levels for other in level.others}))[:10],
    )


async def _ask_at(
    times: float,
    level_s: float,
    clients: Mapping[str, httpx2.AsyncClient],
    sessions: Mapping[str, str],
    *,
    tenants: Sequence[str] = (HEAVY, *LIGHT),
) -> Level:
    """Ask at a rate, whatever becomes of it, then wait for all of it; without the heavy tenant, its part is
    not asked for.
    """
    level, rate, began_s = Level(times), times * CAPACITY, time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * level_s)):
            await asyncio.sleep(max(0.0, began_s + number / rate - time.monotonic()))
            tenant = LIGHT[(number // 10) % len(LIGHT)] if number % 10 == 0 else HEAVY
            if tenant in tenants:
                work = _ask(clients[tenant], tenant, sessions[tenant], level, began_s)
                group.create_task(work)
    return level


async def _ask(client: httpx2.AsyncClient, tenant: str, sid: str, level: Level, began_s: float) -> None:
    asked_at_s = time.monotonic()
    level.asked[tenant] = level.asked.get(tenant, 0) + 1
    body = {
        "calls": [
            call("Say {{out}}", {"out": {"output": {"sampling": output("x", TOKENS)["output"]["sampling"]}}})
        ]
    }
    answer = await client.post(f"/v1/sessions/{sid}/calls", json=body)
    if answer.status_code in (429, 503):
        level.refused[tenant] = level.refused.get(tenant, 0) + 1
        level.refusal_s.append(time.monotonic() - asked_at_s)
        level.unexplained += "retry-after" not in answer.headers
        return
    if answer.status_code != 202:
        level.others.append(f"{answer.status_code} {answer.text[:100]}")
        return
    variable = answer.json()["calls"][0]["outputs"]["out"]["variable_id"]
    view = await client.get(f"/v1/sessions/{sid}/variables/{variable}", params={"wait": 60})
    if view.status_code != 200 or view.json()["state"] != "ready":
        level.others.append(f"{view.status_code} {view.text[:100]}")
        return
    now_s = time.monotonic()
    level.served.setdefault(tenant, []).append(now_s - asked_at_s)
    level.done_at_s.append(now_s - began_s)


# ── time as a witness ───────────────────────────────────────────────────────────────────────────────────────


async def timing(directory: Path, *, num_pairs: int, seed: int = 21) -> Finding:
    """One tenant asks for what another has and for what nobody has, and sends prompts that another sent and
    prompts that nobody sent: do answers differ, in bytes or in time?
    """
    chance = random.Random(seed)
    async with clients_of(directory, ("owner", "stranger"), METERED) as clients:
        owner, stranger = clients["owner"], clients["stranger"]
        ids = await _ask_for_ids(owner, stranger, num_pairs, chance)
        prompts = await _send_prompts(owner, stranger, num_pairs, chance)
    own = _auc(prompts.owner_again_s, prompts.owner_new_s)
    looked_for = ((ids.foreign_s, ids.unknown_s), (prompts.foreign_s, prompts.unknown_s))
    return Finding(
        scenario="One tenant looks for another's things by the time that answers take",
        promise="P7, P8",
        faults={
            "questions for another's session, and for nobody's": 2 * num_pairs,
            "prompts that another had sent, and that nobody had": 2 * num_pairs,
        },
        zeros=(
            Zero(what="answers that differ in bytes or headers", count=ids.num_different, of=num_pairs),
            Zero(what="prompt tokens found that another sent", count=prompts.num_found, of=prompts.num_sent),
            Zero(
                what="kinds of questions whose times tell (0.5 is outside the 99 % interval of the AUC)",
                count=sum(_tells(*times) for times in looked_for),
                of=len(looked_for),
            ),
        ),
        floors=(
            Floor(
                what="own prompts told from new ones by time, percent (else nothing was to be seen)",
                count=round(100 * own),
                at_least=90,
            ),
        ),
        figures={
            **_told_apart("anothers_session", ids.foreign_s, ids.unknown_s),
            "p_of_anothers_session": round(_ks_p(ids.foreign_s, ids.unknown_s), 3),
            **_told_apart("anothers_prompt", prompts.foreign_s, prompts.unknown_s),
            "p_of_anothers_prompt": round(_ks_p(prompts.foreign_s, prompts.unknown_s), 3),
            "auc_of_ones_own_prompt": round(own, 3),
        },
    )


@dataclass(slots=True)
class _Ids:
    foreign_s: list[float] = field(default_factory=list)
    unknown_s: list[float] = field(default_factory=list)
    num_different: int = 0


@dataclass(slots=True)
class _Prompts:
    owner_again_s: list[float] = field(default_factory=list)
    owner_new_s: list[float] = field(default_factory=list)
    foreign_s: list[float] = field(default_factory=list)
    unknown_s: list[float] = field(default_factory=list)
    num_found: int = 0
    num_sent: int = 0


async def _ask_for_ids(
    owner: httpx2.AsyncClient, stranger: httpx2.AsyncClient, num_pairs: int, chance: random.Random
) -> _Ids:
    found = _Ids()
    theirs = [(await owner.post("/v1/sessions", json={})).json()["session_id"] for _ in range(16)]
    for number in range(num_pairs + 8):
        foreign = f"/v1/sessions/{chance.choice(theirs)}"
        unknown = f"/v1/sessions/ses_{chance.randbytes(16).hex()}"
        answers: dict[str, tuple[float, tuple[object, ...]]] = {}
        for path in chance.sample((foreign, unknown), 2):
            began_s = time.perf_counter()
            answer = await stranger.get(path)
            took_s = time.perf_counter() - began_s
            headers = {name: value for name, value in answer.headers.items() if name not in OWN_HEADERS}
            body = {**answer.json()["error"], "request_id": ""}
            answers[path] = (
                took_s,
                (answer.status_code, tuple(headers.items()), tuple(map(str, body.items()))),
            )
        if number >= 8:  # the first few find a cold service
            found.foreign_s.append(answers[foreign][0])
            found.unknown_s.append(answers[unknown][0])
            found.num_different += answers[foreign][1] != answers[unknown][1]
    return found


async def _send_prompts(
    owner: httpx2.AsyncClient, stranger: httpx2.AsyncClient, num_pairs: int, chance: random.Random
) -> _Prompts:
    sent = _Prompts()
    mine = (await owner.post("/v1/sessions", json={})).json()["session_id"]
    theirs = (await stranger.post("/v1/sessions", json={})).json()["session_id"]
    for _ in range(num_pairs):
        known = _prompt(chance)
        took_s, _ = await _time_prompt(owner, mine, known)
        sent.owner_new_s.append(took_s)
        order = [(sent.foreign_s, known), (sent.unknown_s, _prompt(chance))]
        for times, prompt in chance.sample(order, 2):
            took_s, num_shared = await _time_prompt(stranger, theirs, prompt)
            times.append(took_s)
            sent.num_found += num_shared if prompt == known else 0
            sent.num_sent += PREFIX_WORDS if prompt == known else 0
        took_s, _ = await _time_prompt(owner, mine, known)
        sent.owner_again_s.append(took_s)
    return sent


def _prompt(chance: random.Random) -> str:
    return " ".join(f"word{chance.randrange(10**6)}" for _ in range(PREFIX_WORDS))


async def _time_prompt(client: httpx2.AsyncClient, sid: str, text: str) -> tuple[float, int]:
    """Seconds until an answer of one token, and how many of the prompt's tokens were there already."""
    sampling = {"max_tokens": 1, "ignore_eos": True}
    body = {"calls": [call(f"{text} {{{{out}}}}", {"out": {"output": {"sampling": sampling}}})]}
    began_s = time.perf_counter()
    accepted = (await client.post(f"/v1/sessions/{sid}/calls", json=body)).json()["calls"][0]
    variable = accepted["outputs"]["out"]["variable_id"]
    await client.get(f"/v1/sessions/{sid}/variables/{variable}", params={"wait": 30})
    took_s = time.perf_counter() - began_s
    calls = (await client.get(f"/v1/sessions/{sid}/graph")).json()["calls"]
    told = next(each for each in calls if each["call_id"] == accepted["call_id"])
    return took_s, int(told["tokens"]["shared"])


# ── figures ─────────────────────────────────────────────────────────────────────────────────────────────────


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))] if values else math.nan


def _percent(part: float, whole: float) -> int:
    return round(100 * part / whole) if whole else 0


def _auc(shorter: Sequence[float], longer: Sequence[float]) -> float:
    """How often a time of the first kind is below one of the second: 0.5 when time tells nothing."""
    if not shorter or not longer:
        return math.nan
    below = sum((a < b) + 0.5 * (a == b) for a in shorter for b in longer)
    return below / (len(shorter) * len(longer))


def _interval(auc: float, num_shorter: int, num_longer: int, deviations: float) -> tuple[float, float]:
    """An AUC less and more so many standard errors, these by Hanley and McNeil."""
    pair, mirrored = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (num_shorter - 1) * (pair - auc**2) + (num_longer - 1) * (mirrored - auc**2)
    half = deviations * math.sqrt(max(0.0, spread) / (num_shorter * num_longer))
    return auc - half, auc + half


def _tells(shorter: Sequence[float], longer: Sequence[float]) -> bool:
    """Whether times of two kinds differ by more than chance: 99 of 100 runs say no when they do not."""
    low, high = _interval(_auc(shorter, longer), len(shorter), len(longer), 2.576)
    return not low <= 0.5 <= high


def _told_apart(what: str, shorter: Sequence[float], longer: Sequence[float]) -> dict[str, float]:
    """The AUC of two kinds of times with its interval."""
    auc = _auc(shorter, longer)
    low, high = _interval(auc, len(shorter), len(longer), 1.96)
    return {
        f"auc_of_{what}": round(auc, 3),
        f"auc_of_{what}_low": round(low, 3),
        f"auc_of_{what}_high": round(high, 3),
    }


def _ks_p(one: Sequence[float], other: Sequence[float]) -> float:
    """The p-value of the two-sample Kolmogorov-Smirnov test, by its limit distribution."""
    if not one or not other:
        return math.nan
    marked = sorted([(value, 1 / len(one)) for value in one] + [(value, -1 / len(other)) for value in other])
    distance = total = 0.0
    for _, step in marked:
        total += step
        distance = max(distance, abs(total))
    weight = math.sqrt(len(one) * len(other) / (len(one) + len(other)))
    scaled = (weight + 0.12 + 0.11 / weight) * distance
    if scaled < 0.3:
        return 1.0
    terms = ((2.0 if k % 2 else -2.0) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, sum(terms)))
