"""Whoever leaves, however and at whatever stage, leaves nothing behind: no call, reader, task, descriptor or
KV block after two seconds of a loop that runs.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from http_harness import KEY_A, Harness, call, output, running_service

from parrot.engine.scripted_config import ScriptedConfig
from parrot.types.ids import EngineId

pytestmark = pytest.mark.asyncio(loop_scope="module")

FREED_WITHIN_S = 2.0
TICK_S = 0.02
PATIENCE_S = 20.0
"""For everything that is only on the way to what is tested: a machine may have other work."""
LONG = {"max_tokens": 2000, "ignore_eos": True}
WORDS = "word " * 3000
MORE_WORDS, OTHER_WORDS = "more " * 10_000, "other " * 10_000
"""Take the engine longer than memory may take to be free."""

STAGES: dict[str, list[dict[str, Any]]] = {
    "waits for an input": [call("{{x}} {{out}}", x={"variable": "never"}, out={"output": {"variable": "o"}})],
    "waits for an engine": [
        *(output(sampling=LONG) for _ in range(4)),
        output(variable="o", sampling=LONG),
    ],
    "is being filled": [
        call("{{x}} {{out}}", x={"value": WORDS}, out={"output": {"variable": "o", "sampling": LONG}})
    ],
    "generates": [output(variable="o", sampling=LONG)],
    "waits for what generates": [
        output(variable="a", sampling=LONG),
        call("{{a}} {{out}}", a={"variable": "a"}, out={"output": {"variable": "o"}}),
    ],
    "is filled before its input is there": [
        call(
            "{{w}} {{x}} {{out}}",
            w={"value": MORE_WORDS},
            x={"variable": "never"},
            out={"output": {"variable": "o"}},
        )
    ],
    "follows what generates": [
        output(variable="a", sampling=LONG),
        call(
            "{{w}} {{a}} {{out}}",
            w={"value": OTHER_WORDS},
            a={"variable": "a"},
            out={"output": {"variable": "o"}},
        ),
    ],
}
DEADLINE_S = 0.5
REACHED = {
    "waits for an input": {"calls": 0},
    "is filled before its input is there": {"blocks": 20},
    "follows what generates": {"calls": 1, "blocks": 20},
}
"""What must stand before the stage is reached, where it is not one call that runs. How many run at once is
for the scheduler to say, which bounds a batch by the speed that it measured.
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Harness]:
    """An engine that takes its time, for four calls at once."""
    slow = ScriptedConfig(
        decode_step_s=0.02, prefill_tokens_per_s=2000, step_tokens=64, max_batch=4, context_tokens=16_384
    )
    async with running_service(engine=slow) as harness:
        yield harness


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_of_a_neighbour(service: Harness) -> AsyncIterator[None]:
    """A test that fails leaves its sessions to nobody."""
    yield
    listed = (await service.client.get("/v1/sessions")).json()["sessions"]
    for session in listed:
        await service.client.delete(f"/v1/sessions/{session['session_id']}")


def standing(service: Harness) -> dict[str, int]:
    """Everything that somebody could leave behind."""
    counters = service.service.counters()
    (engine,) = service.service.engines().engines
    return {
        "calls": counters["calls_running"],
        "readers": counters["waiters"],
        "wanted prefixes": counters["prefixes_wanted"],
        "blocks": engine.num_owned_blocks,
        "tasks": len(asyncio.all_tasks()),
        "descriptors": len(list(Path("/dev/fd").iterdir())),
    }


async def until(service: Harness, **wanted: int) -> None:
    """Wait until so much stands."""
    async with asyncio.timeout(PATIENCE_S):
        while any(standing(service)[name] < number for name, number in wanted.items()):
            await asyncio.sleep(TICK_S)


async def until_free(service: Harness, before: dict[str, int]) -> dict[str, int]:
    """What stands that did not before, two seconds later at most. The loop's turns are counted, not the
    clock's: what frees runs in this loop too.
    """
    for _ in range(round(FREED_WITHIN_S / TICK_S)):
        left = {name: n - before[name] for name, n in standing(service).items() if n > before[name]}
        if not left:
            return {}
        await asyncio.sleep(TICK_S)
    return left


async def read_stream(client: httpx2.AsyncClient, path: str) -> None:
    async with client.stream("GET", path) as response:
        async for _ in response.aiter_raw():
            continue


@pytest.mark.parametrize("way", ["cancel", "delete", "deadline", "disconnect"])
@pytest.mark.parametrize("stage", STAGES)
async def test_nothing_is_left_behind(stage: str, way: str, service: Harness) -> None:
    assert await until_free(service, dict.fromkeys(("calls", "readers", "blocks"), 0) | _any_number()) == {}
    before = standing(service)
    async with httpx2.AsyncClient(
        base_url=service.client.base_url, headers={"Authorization": f"Bearer {KEY_A}"}, timeout=20
    ) as client:
        deadline = {"deadline_s": DEADLINE_S} if way == "deadline" else {}
        sid = (await client.post("/v1/sessions", json=deadline)).json()["session_id"]
        path = f"/v1/sessions/{sid}"
        assert (await client.post(f"{path}/calls", json={"calls": STAGES[stage]})).status_code == 202
        readers = [
            asyncio.ensure_future(client.get(f"{path}/variables/o", params={"wait": 15})),
            asyncio.ensure_future(read_stream(client, f"{path}/variables/o/stream")),
            asyncio.ensure_future(read_stream(client, f"{path}/events")),
        ]
        if way != "deadline":
            await until(service, readers=2, **REACHED.get(stage, {"calls": 1}))
        match way:
            case "cancel":
                await client.post(f"{path}/cancel", json={})
                readers.pop().cancel()
                await asyncio.wait(readers, timeout=PATIENCE_S)
            case "delete":
                await client.delete(path)
                await asyncio.wait(readers, timeout=PATIENCE_S)
            case "deadline":
                await asyncio.sleep(DEADLINE_S)
                readers.pop().cancel()
                await asyncio.wait(readers, timeout=PATIENCE_S)
            case _:
                for reader in readers:
                    reader.cancel()
        ended = await asyncio.gather(*readers, return_exceptions=True)
        if way == "disconnect":
            # The call goes on, and its memory grows.
            left = await until_free(service, {**standing(service), "readers": 0, "blocks": 1_000_000})
            assert left == {}
            await client.delete(path)
        assert all(isinstance(e, asyncio.CancelledError | httpx2.Response | None) for e in ended), ended
    del readers
    assert await until_free(service, before) == {}
    if way in ("cancel", "deadline"):
        await service.client.delete(path)


def _any_number() -> dict[str, int]:
    return dict.fromkeys(("wanted prefixes", "tasks", "descriptors"), 1_000_000)


async def test_an_engine_that_nobody_uses_owns_no_block(service: Harness) -> None:
    assert await until_free(service, {"blocks": 0, "calls": 0, "readers": 0} | _any_number()) == {}
    engine = next(e for e in service.service.engines().engines if e.engine_id == EngineId("scripted-0"))
    assert (engine.num_owned_blocks, engine.num_restarts) == (0, 0)
