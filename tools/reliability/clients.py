"""Scenarios seen from a client: streams that are cut, restarts that are planned."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

import parrot
from parrot import Input, Output, ParrotError, semantic_function
from reliability.findings import Finding, Floor, Zero
from reliability.served_process import Served
from reliability.workload import call, output

Events = list[tuple[str, str, str]]
"""Identifier, name and data of server-sent events."""

NUM_CLIENTS = 3


@semantic_function(max_tokens=12, ignore_eos=True)
def draft(topic: Input, text: Output) -> None:
    """Write about {{topic}}: {{text}}"""


@semantic_function(max_tokens=12, ignore_eos=True)
def review(text: Input, verdict: Output) -> None:
    """Review {{text}}: {{verdict}}"""


@asynccontextmanager
async def served(directory: Path, port: int = 0, **environment: str) -> AsyncIterator[tuple[Served, str]]:
    """A service with a scripted engine."""
    arguments = ["--engine", "scripted", "--port", str(port), "--db", "store.db"]
    process = Served(arguments, directory, environment)
    try:
        yield process, await asyncio.to_thread(process.url)
    finally:
        await asyncio.to_thread(process.close)


def parse_events(body: bytes) -> Events:
    """The events that have arrived whole."""
    found: Events = []
    whole = body[: body.rfind(b"\n\n") + 2] if b"\n\n" in body else b""
    for block in whole.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and line[0] != ":")
        if "data" in fields:
            found.append((fields.get("id", ""), fields.get("event", ""), fields["data"]))
    return found


async def read_stream(
    client: httpx2.AsyncClient, path: str, *, after: str = "", max_bytes: int | None, last: str
) -> tuple[bytes, bool]:
    """What a stream says until the event `last`, or until it is cut after `max_bytes`; whether it was cut."""
    headers = {"Last-Event-ID": after} if after else {}
    body = b""
    async with client.stream("GET", path, headers=headers) as response:
        async for chunk in response.aiter_raw():
            body += chunk
            if max_bytes is not None and len(body) >= max_bytes:
                return body[:max_bytes], True
            if any(name == last for _, name, _ in parse_events(body)):
                return body, False
    return body, False


async def cut_streams(directory: Path, *, step: int = 1) -> Finding:
    """A session's events, and a variable's text while it is generated, cut at every byte and resumed."""
    async with (
        served(directory, PARROT_ENGINES__MAIN__DECODE_STEP_S="0.002") as (_, url),
        httpx2.AsyncClient(base_url=url, timeout=20) as client,
    ):
        session_id = (await client.post("/v1/sessions", json={})).json()["session_id"]
        sid, last = f"/v1/sessions/{session_id}", "call_finished"
        await client.post(f"{sid}/calls", json={"calls": [call("Say {{out}}", {"out": output("a", 8)})]})
        await client.get(f"{sid}/variables/a", params={"wait": 20})
        path = f"{sid}/events"
        whole, _ = await read_stream(client, path, max_bytes=None, last=last)
        expected, wrong, num_cuts = parse_events(whole), 0, 0
        for length in range(1, len(whole), step):
            head, _ = await read_stream(client, path, max_bytes=length, last=last)
            seen = parse_events(head)
            if len(seen) < len(expected):
                after = seen[-1][0] if seen else ""
                tail, _ = await read_stream(client, path, after=after, max_bytes=None, last=last)
                seen += parse_events(tail)
            wrong += seen != expected
            num_cuts += 1
        live_cuts, live_wrong = 0, 0
        for number in range(4):
            cuts, differs = await _follow_through_cuts(client, sid, f"live_{number}", 100 + 37 * number)
            live_cuts, live_wrong = live_cuts + cuts, live_wrong + differs
    return Finding(
        scenario="Streams are cut at every byte and resumed",
        promise="P14",
        faults={"cuts of a session's events": num_cuts, "cuts of a text being generated": live_cuts},
        zeros=(
            Zero(what="cuts after which an event was missing or came twice", count=wrong, of=num_cuts),
            Zero(what="texts that differ from the committed value", count=live_wrong, of=4),
        ),
        floors=(Floor(what="cuts of a text being generated", count=live_cuts, at_least=20),),
    )


async def _follow_through_cuts(
    client: httpx2.AsyncClient, sid: str, name: str, length: int
) -> tuple[int, bool]:
    """Follow a text while it is generated, cut again and again after so many bytes."""
    await client.post(f"{sid}/calls", json={"calls": [call("Tell {{out}}", {"out": output(name, 60)})]})
    text, after, cuts = "", "", 0
    while True:
        body, cut = await read_stream(
            client, f"{sid}/variables/{name}/stream", after=after, max_bytes=length, last="ready"
        )
        cuts += cut
        for event_id, event, data in parse_events(body):
            after = event_id or after
            fields = json.loads(data)
            if event == "reset":
                text = ""
            elif event == "delta":
                text += fields["text"]
            elif event == "ready":
                return cuts, text != fields["value"]
        length += 3  # else a cut before the first whole event would come there again and again


async def rolling_restarts(directory: Path, *, num_restarts: int) -> Finding:
    """The service is told to stop and started again, on and on, under applications written with the SDK."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    errors: list[str] = []
    done, over, statuses, gaps = 0, asyncio.Event(), list[int](), list[float]()

    async def use(number: int) -> None:
        nonlocal done
        while not over.is_set():
            try:
                async with parrot.connect(f"http://127.0.0.1:{port}") as session:
                    for round_ in range(3):
                        text = draft(topic=f"topic {number}.{round_}")
                        await review(text=text).get(timeout_s=60)
                        done += 1
                    assert session is not None
            except (ParrotError, httpx2.HTTPError) as error:
                errors.append(f"{type(error).__name__}: {error}"[:200])

    slow = {"PARROT_ENGINES__MAIN__DECODE_STEP_S": "0.01"}
    arguments = ["--engine", "scripted", "--port", str(port), "--db", "store.db"]
    process = Served(arguments, directory, slow)
    try:
        await asyncio.to_thread(process.url)
        async with asyncio.TaskGroup() as group:
            for number in range(NUM_CLIENTS):
                group.create_task(use(number))
            for _ in range(num_restarts):
                async with asyncio.timeout(60):
                    # Each finds it in use: where starting takes long, it would be away nearly always.
                    known = done
                    while done < known + NUM_CLIENTS:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                began_s = time.monotonic()
                statuses.append(await asyncio.to_thread(process.end, signal.SIGTERM))
                process.close()
                process = Served(arguments, directory, slow)
                await asyncio.to_thread(process.url)
                gaps.append(time.monotonic() - began_s)
            await asyncio.sleep(1.0)
            over.set()
    finally:
        process.close()
    return Finding(
        scenario="The service is restarted under applications",
        promise="P16",
        faults={"SIGTERM and a new start": num_restarts},
        zeros=(
            Zero(what="errors seen by an application", count=len(errors), of=done),
            Zero(
                what="restarts that did not end with status 0",
                count=sum(map(bool, statuses)),
                of=len(statuses),
            ),
        ),
        floors=(Floor(what="applications' results", count=done, at_least=3 * num_restarts),),
        figures={"seconds_of_a_restart_max": round(max(gaps), 2)},
        problems=tuple(errors[:10]),
    )
