"""The service is killed at random instants under load, again and again; a client's journal is the judge.

What was acknowledged resolves, to one value for all who look at any time; a submission that was sent again is
there once; what had ended before a kill is not run again; a stream that is resumed is the value.
"""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from served_process import Served

NUM_KILLS = 12
MAX_LIFE_S = 0.8
CALLS_OF_AN_APPLICATION = 4
MIN_ACKNOWLEDGED = 24
"""Applications acknowledged before the last kill: with fewer, the test has shown nothing."""
STUCK_AFTER_S = 20.0
FINAL = frozenset({"ready", "failed"})
ARGUMENTS = ["--engine", "scripted", "--port", "0", "--db", "store.db"]
SLOW = {"PARROT_ENGINES__MAIN__DECODE_STEP_S": "0.01"}


@dataclass
class Journal:
    """What the client knows for sure."""

    session_id: str = ""
    sent: list[str] = field(default_factory=list)
    """Applications that were sent at least once."""
    accepted: dict[str, Any] = field(default_factory=dict)
    """The answer to each that was acknowledged."""
    seen: dict[str, set[str]] = field(default_factory=dict)
    """Every final state of a variable that was ever read, as JSON text."""
    done: dict[str, int] = field(default_factory=dict)
    """Calls that were reported done, and in which attempt."""
    problems: list[str] = field(default_factory=list)
    """What no crash excuses."""

    def names(self) -> list[str]:
        """The variables that were acknowledged."""
        return [name for key in self.accepted for name in variables(key)] + ["story"]

    def note(self, view: dict[str, Any]) -> None:
        """A variable was read."""
        if view["state"] in FINAL:
            text = json.dumps([view["state"], view.get("value"), view.get("error")])
            self.seen.setdefault(view["name"], set()).add(text)


def variables(key: str) -> list[str]:
    return [f"{key}_map_{number}" for number in range(CALLS_OF_AN_APPLICATION - 1)] + [f"{key}_sum"]


def output(name: str, max_tokens: int) -> dict[str, Any]:
    sampling = {"max_tokens": max_tokens, "ignore_eos": True}
    return {"output": {"variable": name, "sampling": sampling}}


def application(key: str) -> dict[str, Any]:
    """Three calls, and one that takes their outputs together."""
    *maps, total = variables(key)
    calls: list[dict[str, Any]] = [
        {
            "template": "Summarise {{part}}: {{out}}",
            "parameters": {"part": {"value": f"part {name}"}, "out": output(name, 10)},
        }
        for name in maps
    ]
    inputs = {f"in_{number}": {"variable": name} for number, name in enumerate(maps)}
    template = "Join " + " ".join(f"{{{{{name}}}}}" for name in inputs) + ": {{out}}"
    return {"calls": [*calls, {"template": template, "parameters": {**inputs, "out": output(total, 10)}}]}


async def submit(client: httpx2.AsyncClient, journal: Journal, key: str) -> None:
    answer = await client.post(
        f"/v1/sessions/{journal.session_id}/calls", json=application(key), headers={"Idempotency-Key": key}
    )
    if answer.status_code == 202:
        if journal.accepted.setdefault(key, answer.json()) != answer.json():
            journal.problems.append(f"{key} was answered in two ways")
    elif answer.status_code != 503:
        journal.problems.append(f"{key}: {answer.status_code} {answer.text}")


async def submit_on_and_on(client: httpx2.AsyncClient, journal: Journal) -> None:
    """First again what may have arrived, and some of what did; then new applications."""
    doubtful = [key for key in journal.sent if key not in journal.accepted]
    for key in doubtful + list(journal.accepted)[:1]:
        await submit(client, journal, key)
    while True:
        key = f"app_{len(journal.sent)}"
        journal.sent.append(key)
        await submit(client, journal, key)
        await asyncio.sleep(0.03)


async def read_on_and_on(client: httpx2.AsyncClient, journal: Journal, chance: random.Random) -> None:
    path = f"/v1/sessions/{journal.session_id}"
    while True:
        name = chance.choice(journal.names())
        journal.note(await get(client, journal, name, wait_s=chance.choice((0.0, 0.2))))
        if chance.random() < 0.2:
            for call in (await client.get(f"{path}/graph")).json()["calls"]:
                if (
                    call["state"] == "done"
                    and journal.done.setdefault(call["call_id"], call["attempt"]) != (call["attempt"])
                ):
                    journal.problems.append(f"{call['call_id']} had ended and ran again")


async def get(client: httpx2.AsyncClient, journal: Journal, name: str, *, wait_s: float) -> dict[str, Any]:
    answer = await client.get(f"/v1/sessions/{journal.session_id}/variables/{name}", params={"wait": wait_s})
    if answer.status_code != 200:
        journal.problems.append(f"{name} was acknowledged: {answer.status_code} {answer.text}")
    view: dict[str, Any] = answer.json()
    return view


@dataclass
class Follower:
    """Follows one stream over all lives of the service, as an event source does."""

    position: str = ""
    text: str = ""
    value: str | None = None

    async def follow(self, client: httpx2.AsyncClient, session_id: str) -> None:
        headers = {"Last-Event-ID": self.position} if self.position else {}
        path = f"/v1/sessions/{session_id}/variables/story/stream"
        async with client.stream("GET", path, headers=headers) as response:
            if response.status_code == 409:
                self.position = self.text = ""
                return
            async for event, event_id, data in events(response):
                self.position = event_id or self.position
                if event == "reset":
                    self.text = ""
                elif event == "delta":
                    self.text += data["text"]
                elif event == "ready":
                    self.value = data["value"]

    async def follow_on_and_on(self, client: httpx2.AsyncClient, session_id: str) -> None:
        while self.value is None:
            await self.follow(client, session_id)


async def events(response: httpx2.Response) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
    """Server-sent events: name, identifier, data."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, text = line.partition(": ")
            fields[name] = text
        elif fields:
            yield fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"])
            fields = {}


async def live(client: httpx2.AsyncClient, journal: Journal, follower: Follower, seed: int) -> None:
    """Use the service until it is gone."""
    chance = random.Random(seed)
    work = [submit_on_and_on(client, journal), follower.follow_on_and_on(client, journal.session_id)]
    work += [read_on_and_on(client, journal, chance) for _ in range(3)]
    for ended in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(ended, BaseException) and not isinstance(ended, httpx2.HTTPError):
            raise ended


async def settle(client: httpx2.AsyncClient, journal: Journal, follower: Follower) -> None:
    """Wait until everything acknowledged has resolved, as long as there is progress."""
    for key in journal.sent:
        await submit(client, journal, key)
    open_names, progress_at = set(journal.names()), time.monotonic()
    while open_names and time.monotonic() - progress_at < STUCK_AFTER_S:
        for name in sorted(open_names):
            view = await get(client, journal, name, wait_s=1.0)
            journal.note(view)
            if view["state"] in FINAL:
                open_names.discard(name)
                progress_at = time.monotonic()
    graph = (await client.get(f"/v1/sessions/{journal.session_id}/graph")).json()
    assert not open_names, [call for call in graph["calls"] if call["state"] != "done"][:5]
    async with asyncio.timeout(STUCK_AFTER_S):
        await follower.follow_on_and_on(client, journal.session_id)


async def log_of(client: httpx2.AsyncClient, session_id: str) -> list[tuple[str, dict[str, Any]]]:
    """All events of a session, which is deleted so that they end."""
    found: list[tuple[str, dict[str, Any]]] = []
    async with client.stream("GET", f"/v1/sessions/{session_id}/events") as response:
        async for event, _, data in events(response):
            if not found:
                assert (await client.delete(f"/v1/sessions/{session_id}")).status_code == 204
            found.append((event, data))
    return found


async def test_what_was_acknowledged_survives_kills_at_random_instants(tmp_path: Path) -> None:
    journal, follower, chance = Journal(), Follower(), random.Random(1)
    acknowledged = 0
    for life in range(NUM_KILLS + 1):
        served = Served(ARGUMENTS, tmp_path, SLOW)
        try:
            url = await asyncio.to_thread(served.url)
            async with httpx2.AsyncClient(base_url=url, timeout=10) as client:
                if life == 0:
                    await open_session(client, journal)
                if life < NUM_KILLS:
                    living = asyncio.create_task(live(client, journal, follower, life))
                    await asyncio.sleep(chance.uniform(0.05, MAX_LIFE_S))
                    served.process.send_signal(signal.SIGKILL)
                    async with asyncio.timeout(STUCK_AFTER_S):
                        await living
                    acknowledged = len(journal.accepted)
                else:
                    await settle(client, journal, follower)
                    graph = (await client.get(f"/v1/sessions/{journal.session_id}/graph")).json()
                    log = await log_of(client, journal.session_id)
        finally:
            served.close()
        assert "Traceback" not in served.said()

    assert journal.problems == []
    assert acknowledged >= MIN_ACKNOWLEDGED
    assert set(journal.sent) == journal.accepted.keys()
    assert journal.seen.keys() == set(journal.names())
    assert {name: states for name, states in journal.seen.items() if len(states) != 1} == {}
    assert all(json.loads(next(iter(states)))[0] == "ready" for states in journal.seen.values())
    assert len(graph["calls"]) == CALLS_OF_AN_APPLICATION * len(journal.sent) + 1
    assert journal.done.items() <= {call["call_id"]: call["attempt"] for call in graph["calls"]}.items()
    assert len(journal.done) >= MIN_ACKNOWLEDGED
    assert follower.text == follower.value
    _check_log(log)


def _check_log(log: list[tuple[str, dict[str, Any]]]) -> None:
    """Each variable was resolved once, each call ended once, and nothing of it was placed afterwards."""
    resolved = Counter(data["variable_id"] for event, data in log if event == "variable_ready")
    ended: set[str] = set()
    for event, data in log:
        if event == "call_finished":
            assert data["call_id"] not in ended
            ended.add(data["call_id"])
        elif event == "call_placed":
            assert data["call_id"] not in ended
    assert set(resolved.values()) == {1}
    assert len(resolved) == len(ended)


async def open_session(client: httpx2.AsyncClient, journal: Journal) -> None:
    journal.session_id = (await client.post("/v1/sessions", json={})).json()["session_id"]
    story = {"template": "Tell a story: {{out}}", "parameters": {"out": output("story", 150)}}
    answer = await client.post(f"/v1/sessions/{journal.session_id}/calls", json={"calls": [story]})
    assert answer.status_code == 202
