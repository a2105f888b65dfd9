"""Engines that die under load: answers survive, and a call that kills engines is stopped."""

import asyncio
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from parrot.core.limits import Limits
from parrot.core.service import Service
from parrot.core.service_config import ServiceConfig
from parrot.engine.launch import start_in_process
from parrot.engine.scripted_config import ScriptedConfig, ScriptedFault
from parrot.ports.clock import SystemClock
from parrot.store import MemoryStore
from parrot.types.ids import DEFAULT_TENANT, EngineId
from parrot.wire.answers import VariableView
from parrot.wire.requests import SessionCreate, SubmitCalls

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")

NUM_ENGINES = 3


def engine_processes() -> list[int]:
    """Child processes of this one that run an engine."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = int(status.read_text().partition("PPid:")[2].split()[0])
            command = (status.parent / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == os.getpid() and b"parrot.engine.worker" in command:
            found.append(int(status.parent.name))
    return found


@asynccontextmanager
async def service_on_processes(
    config: ScriptedConfig, *, num_engines: int = NUM_ENGINES, restart_delay_s: float = 0.05
) -> AsyncIterator[Service]:
    ids = [EngineId(f"engine-{number}") for number in range(num_engines)]
    service = Service(
        config=ServiceConfig(restart_delay_s=restart_delay_s),
        limits=Limits(),
        store=MemoryStore(),
        engines={engine_id: start_in_process(config, engine_id) for engine_id in ids},
        clock=SystemClock(),
        fresh=lambda: uuid.uuid4().hex,
    )
    await service.start()
    try:
        async with asyncio.timeout(30):
            while len(service.engines().engines) < num_engines:
                await asyncio.sleep(0.05)
        yield service
    finally:
        await service.close()


def call(text: str, output: str, max_tokens: int) -> dict[str, Any]:
    sampling = {"max_tokens": max_tokens, "ignore_eos": True}
    out = {"output": {"variable": output, "sampling": sampling}}
    return {"template": "{{text}} {{out}}", "parameters": {"text": {"value": text}, "out": out}}


async def submit(service: Service, calls: list[dict[str, Any]]) -> str:
    session = await service.open_session(DEFAULT_TENANT, SessionCreate())
    request = SubmitCalls.model_validate({"calls": calls})
    await service.submit(DEFAULT_TENANT, session.session_id, request)
    return session.session_id


async def get(service: Service, sid: str, name: str) -> VariableView:
    return await service.get_variable(DEFAULT_TENANT, sid, name, wait_s=30)


async def test_killing_an_engine_costs_time_but_no_answer() -> None:
    config = ScriptedConfig(decode_step_s=0.02, tokens_per_step=1)
    async with service_on_processes(config) as service:
        sid = await submit(service, [call(f"text {i}", f"v{i}", 25) for i in range(30)])
        await asyncio.sleep(0.2)
        victim = engine_processes()[0]
        os.kill(victim, signal.SIGKILL)
        views = [await get(service, sid, f"v{i}") for i in range(30)]
        assert [view.state for view in views] == ["ready"] * 30
        graph = service.graph(DEFAULT_TENANT, sid)
        retried = [c for c in graph.calls if c.attempt == 2]
        assert retried
        assert max(c.attempt for c in graph.calls) == 2


async def test_a_call_survives_any_number_of_engines_that_somebody_else_ended() -> None:
    config = ScriptedConfig(decode_step_s=0.05, tokens_per_step=1)
    async with service_on_processes(config) as service:
        sid = await submit(service, [call("long", "v", 40)])
        attempt = 0
        for _ in range(4):
            attempt = await running_again(service, sid, attempt)
            for victim in engine_processes():
                os.kill(victim, signal.SIGTERM)
        view = await get(service, sid, "v")
        assert (view.state, view.error) == ("ready", None)


async def running_again(service: Service, sid: str, after: int) -> int:
    """Wait until the session's one call is under way in an attempt later than `after`; which one it is."""
    async with asyncio.timeout(40):
        while True:
            (told,) = service.graph(DEFAULT_TENANT, sid).calls
            assert told.state in ("ready", "running")
            if told.state == "running" and told.attempt > after:
                await asyncio.sleep(0.2)
                return told.attempt
            await asyncio.sleep(0.02)


async def test_a_lost_engine_comes_back_and_takes_calls() -> None:
    async with service_on_processes(ScriptedConfig()) as service:
        for victim in engine_processes():
            os.kill(victim, signal.SIGKILL)
        sid = await submit(service, [call("x", "v", 5)])
        assert (await get(service, sid, "v")).state == "ready"
        assert sum(e.num_restarts for e in service.engines().engines) >= 1


async def test_a_call_that_kills_engines_is_stopped_after_two() -> None:
    config = ScriptedConfig(faults=(ScriptedFault(kind="exit", marker="poison"),))
    async with service_on_processes(config) as service:
        sid = await submit(service, [call("a poison pill", "bad", 5)])
        view = await get(service, sid, "bad")
        assert view.error is not None
        assert view.error.code == "quarantined"
        fine = await submit(service, [call("harmless", "good", 5)])
        assert (await get(service, fine, "good")).state == "ready"
        async with asyncio.timeout(30):
            while any(e.state != "up" for e in service.engines().engines):
                await asyncio.sleep(0.05)
        assert sum(e.num_restarts for e in service.engines().engines) == 2


async def test_an_engine_that_soon_ends_again_is_started_later_each_time() -> None:
    config = ScriptedConfig(faults=(ScriptedFault(kind="exit", marker="poison"),))
    deaths_s: list[float] = []
    async with service_on_processes(config, num_engines=1, restart_delay_s=0.2) as service:
        for number in range(3):
            sid = await submit(service, [call(f"poison {number}", "bad", 5)])
            view = await get(service, sid, "bad")
            assert view.error is not None
            assert view.error.code == "quarantined"
            deaths_s.append(time.monotonic())
        fine = await submit(service, [call("harmless", "good", 5)])
        assert (await get(service, fine, "good")).state == "ready"
    # Each call brings it down twice; it comes back after 0.2 s, 0.4 s, and so on.
    assert deaths_s[1] - deaths_s[0] >= 0.4 + 0.8
    assert deaths_s[2] - deaths_s[1] >= 1.6 + 3.2


async def test_calls_beside_one_that_kills_engines_are_not_blamed_for_it() -> None:
    config = ScriptedConfig(
        decode_step_s=0.01,
        tokens_per_step=1,
        faults=(ScriptedFault(kind="exit", marker="poison", after_tokens=3),),
    )
    async with service_on_processes(config) as service:
        beside = [call(f"harmless {i}", f"good{i}", 15) for i in range(30)]
        sid = await submit(service, [*beside[:15], call("a poison pill", "bad", 10), *beside[15:]])
        views = [await get(service, sid, f"good{i}") for i in range(30)]
        bad = await get(service, sid, "bad")
        assert [view.state for view in views] == ["ready"] * 30
        assert bad.error is not None
        assert bad.error.code == "quarantined"
        async with asyncio.timeout(30):
            while any(e.state != "up" for e in service.engines().engines):
                await asyncio.sleep(0.05)
        assert sum(e.num_restarts for e in service.engines().engines) == 2
