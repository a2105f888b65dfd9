"""A client that uses everything that is promised, and goes on doing so while the service dies under it."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from reliability.history import EITHER, FINAL, History

STUCK_AFTER_S = 60.0
STUMBLE = "stumble"
"""A prompt with this word fails at first, by the engine's fault."""
FAULTS = json.dumps([{"kind": "raise", "marker": STUMBLE, "times": 1}])
ENVIRONMENT = {
    "PARROT_ENGINES__MAIN__DECODE_STEP_S": "0.01",
    "PARROT_ENGINES__MAIN__FAULTS": FAULTS,
    "PARROT_LIMITS__MAX_SESSIONS": "100000",
}
KINDS = ("map", "map", "late", "stumble", "fail")
"""What kinds of applications are sent, in turn."""


def kind_of(key: str) -> str:
    """The kind of an application."""
    return KINDS[int(key.rpartition("_")[2]) % len(KINDS)]


def output(name: str, max_tokens: int = 10, **more: object) -> dict[str, Any]:
    """An output parameter."""
    sampling = {"max_tokens": max_tokens, "ignore_eos": True}
    return {"output": {"variable": name, "sampling": sampling, **more}}


def call(template: str, parameters: Mapping[str, object]) -> dict[str, Any]:
    """One call."""
    return {"template": template, "parameters": dict(parameters)}


def application(key: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The body of a submission, and how each of its variables must end.

    `map`: three calls, and one that takes their outputs together. `late`: a call whose input is set after it
    was accepted. `stumble`: a call that its engine fails at first in each life; after three lives it is given
    up. `fail`: a call whose output does not fit
    its transform, and one that waits for it.
    """
    first, last = f"{key}_first", f"{key}_last"
    joined = call("Go on: {{in}} {{out}}", {"in": {"variable": first}, "out": output(last)})
    match kind_of(key):
        case "map":
            names = [f"{key}_map_{number}" for number in range(3)]
            calls = [
                call("Summarise {{part}}: {{out}}", {"part": {"value": f"part {name}"}, "out": output(name)})
                for name in names
            ]
            inputs: dict[str, object] = {f"in_{n}": {"variable": name} for n, name in enumerate(names)}
            template = "Join " + " ".join(f"{{{{{name}}}}}" for name in inputs) + ": {{out}}"
            calls.append(call(template, {**inputs, "out": output(last)}))
            return {"calls": calls}, dict.fromkeys([*names, last], "ready")
        case "late":
            return {"calls": [joined]}, dict.fromkeys([first, last], "ready")
        case "stumble":
            shaky = call(f"{STUMBLE} {{{{out}}}}", {"out": output(first)})
            return {"calls": [shaky, joined]}, dict.fromkeys([first, last], EITHER)
        case _:
            failing = output(first, transforms=[{"type": "regex", "pattern": "no such text"}])
            shaky = call("Say {{out}}", {"out": failing})
            return {"calls": [shaky, joined]}, dict.fromkeys([first, last], "failed")


class Workload:
    """One client of one service, whichever process serves it at the moment."""

    def __init__(self, history: History, *, seed: int, pause_s: float = 0.03) -> None:
        self.history = history
        self._chance = random.Random(seed)
        self._pause_s = pause_s
        self.follower = Follower()

    async def begin(self, client: httpx2.AsyncClient) -> None:
        """Open the long session, with one long text in it, for somebody to follow; the first service may die
        over it, and the next ones.
        """
        if "story_0" in self.history.accepted:
            return
        key = {"Idempotency-Key": "long_session"}
        answer = await client.post("/v1/sessions", json={"name": "long"}, headers=key)
        self.history.session_id = answer.json()["session_id"]
        body = {"calls": [call("Tell a story: {{out}}", {"out": output("story", 150)})]}
        answer = await self._post("calls", client, body, "story_0")
        self.history.sent.append("story_0")
        self.history.note_accepted("story_0", answer.json(), {"story": "ready"})

    async def live(self, client: httpx2.AsyncClient) -> None:
        """Use the service until it is gone."""
        work = [
            self._submit_on_and_on(client),
            self.follower.follow_on_and_on(client, self.history.session_id),
            self._open_and_delete_on_and_on(client),
            *(self._read_on_and_on(client) for _ in range(3)),
        ]
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, BaseException) and not isinstance(ended, httpx2.HTTPError):
                    raise ended
        finally:
            for task in tasks:
                task.cancel()

    async def settle(self, client: httpx2.AsyncClient) -> None:
        """Send again what may not have arrived; wait until everything resolved, as long as there is progress.

        Raises:
            TimeoutError: nothing resolved for a minute, or the stream did not end.
        """
        for key in self.history.sent:
            if key != "story_0":
                await self._submit(client, key)
        waiting, moved_at = set(self.history.expected), time.monotonic()
        while waiting:
            if time.monotonic() - moved_at > STUCK_AFTER_S:
                raise TimeoutError(f"stuck: {sorted(waiting)[:5]}")
            for name in sorted(waiting):
                view = await self.read(client, name, wait_s=1.0)
                if view.get("state") in FINAL:
                    waiting.discard(name)
                    moved_at = time.monotonic()
        async with asyncio.timeout(STUCK_AFTER_S):
            await self.follower.follow_on_and_on(client, self.history.session_id)
        if self.follower.text != self.follower.value:
            self.history.problems.append("the stream's text is not the value")
        for session_id in self.history.deleted:
            answer = await client.get(f"/v1/sessions/{session_id}")
            if answer.status_code not in (404, 410):
                self.history.problems.append(f"{session_id} was deleted and is there: {answer.status_code}")

    async def close(self, client: httpx2.AsyncClient) -> tuple[Any, list[tuple[str, Any]]]:
        """The application graph and the whole log of the long session, which is deleted."""
        path = f"/v1/sessions/{self.history.session_id}"
        graph = (await client.get(f"{path}/graph")).json()
        log: list[tuple[str, Any]] = []
        async with client.stream("GET", f"{path}/events") as response:
            async for name, _, data in events(response):
                if not log:
                    await client.delete(path)
                log.append((name, data))
        return graph, log

    async def read(self, client: httpx2.AsyncClient, name: str, *, wait_s: float) -> dict[str, Any]:
        """One variable, waited for."""
        path = f"/v1/sessions/{self.history.session_id}/variables/{name}"
        answer = await client.get(path, params={"wait": wait_s})
        if answer.status_code == 200:
            view: dict[str, Any] = answer.json()
            self.history.note_read(view)
            return view
        if answer.status_code != 503:
            self.history.problems.append(f"{name} was acknowledged: {answer.status_code} {answer.text[:200]}")
        return {}

    async def _submit(self, client: httpx2.AsyncClient, key: str) -> None:
        body, expected = application(key)
        answer = await self._post("calls", client, body, key)
        if answer.status_code == 202:
            self.history.note_accepted(key, answer.json(), expected)
        elif answer.status_code != 503:
            self.history.problems.append(f"{key}: {answer.status_code} {answer.text[:200]}")
        else:
            self.history.counts["refused"] += 1
        if kind_of(key) == "late" and key in self.history.accepted:
            await self._set(client, f"{key}_first")

    async def _post(self, route: str, client: httpx2.AsyncClient, body: object, key: str) -> httpx2.Response:
        path = f"/v1/sessions/{self.history.session_id}/{route}"
        return await client.post(path, json=body, headers={"Idempotency-Key": key})

    async def _set(self, client: httpx2.AsyncClient, name: str) -> None:
        path = f"/v1/sessions/{self.history.session_id}/variables/{name}"
        answer = await client.put(path, json={"value": f"value of {name}"})
        if answer.status_code == 200:
            self.history.values_set[name] = f"value of {name}"
        elif answer.status_code != 503:
            self.history.problems.append(f"{name}: {answer.status_code} {answer.text[:200]}")

    async def _submit_on_and_on(self, client: httpx2.AsyncClient) -> None:
        """First again what may have arrived, and some of what did; then new applications."""
        history = self.history
        doubtful = [key for key in history.sent if key not in history.accepted]
        unset = [key for key in history.accepted if kind_of(key) == "late" and key != "story_0"]
        unset = [key for key in unset if f"{key}_first" not in history.values_set]
        known = [key for key in history.accepted if key != "story_0"]
        for key in dict.fromkeys([*doubtful, *unset, *known[-1:]]):
            await self._submit(client, key)
        while True:
            key = f"app_{len(history.sent)}"
            history.sent.append(key)
            await self._submit(client, key)
            await asyncio.sleep(self._pause_s)

    async def _open_and_delete_on_and_on(self, client: httpx2.AsyncClient) -> None:
        """Short sessions, each opened under a key; what may have been opened is opened again."""
        number = len(self.history.opened)
        while True:
            key = f"short_{number}"
            answer = await client.post("/v1/sessions", json={}, headers={"Idempotency-Key": key})
            if answer.status_code == 201:
                session_id = answer.json()["session_id"]
                self.history.note_opened(key, session_id)
                body = {"calls": [call("Say {{out}}", {"out": output("x", 5)})]}
                await client.post(f"/v1/sessions/{session_id}/calls", json=body)
                if (await client.delete(f"/v1/sessions/{session_id}")).status_code == 204:
                    self.history.deleted.append(session_id)
            if answer.status_code in (201, 404, 410):
                number += 1
            await asyncio.sleep(self._pause_s)

    async def _read_on_and_on(self, client: httpx2.AsyncClient) -> None:
        path = f"/v1/sessions/{self.history.session_id}"
        while True:
            name = self._chance.choice(list(self.history.expected))
            await self.read(client, name, wait_s=self._chance.choice((0.0, 0.2)))
            if self._chance.random() < 0.2:
                answer = await client.get(f"{path}/graph")
                if answer.status_code == 200:
                    self.history.note_graph(answer.json()["calls"])


@dataclass(slots=True)
class Follower:
    """Follows one stream over all lives of the service, as an event source does."""

    position: str = ""
    text: str = ""
    value: str | None = None
    num_connections: int = 0

    async def follow(self, client: httpx2.AsyncClient, session_id: str) -> None:
        """Follow it until the connection ends."""
        headers = {"Last-Event-ID": self.position} if self.position else {}
        path = f"/v1/sessions/{session_id}/variables/story/stream"
        self.num_connections += 1
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
                elif event == "failed":
                    self.text = self.value = ""

    async def follow_on_and_on(self, client: httpx2.AsyncClient, session_id: str) -> None:
        """Follow it to its end."""
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
