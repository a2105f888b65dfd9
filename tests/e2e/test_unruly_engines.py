"""Engines' processes that misbehave: nobody else is worse off, no variable is resolved twice or wrongly."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from engine_harness import call, engine_processes, get, service_on_processes, submit

from parrot.core.service import Service
from parrot.engine.remote import Liveness
from parrot.engine.scripted_config import ScriptedConfig
from parrot.types.ids import DEFAULT_TENANT
from parrot.wire.answers import EngineView

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")

PLAIN = ScriptedConfig()
PROGRAM = "unruly_engine"
LOADING = "loads"
OTHER = ScriptedConfig(served_name="other")


@pytest.fixture(autouse=True)
def unruly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every engine's process runs the program that misbehaves as its engine's id says."""
    program = Path(__file__).with_name("unruly_engine.py")
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {program} "$@"\n')
    interpreter.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(interpreter))


def is_loading(pid: int) -> bool:
    """Whether an engine's process has come as far as `loads` comes."""
    try:
        return LOADING in Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return False


def follows(before: str, output: str) -> dict[str, object]:
    """A call that reads another's output."""
    parameters = {"x": {"variable": before}, "out": {"output": {"variable": output}}}
    return {"template": "{{x}} {{out}}", "parameters": parameters}


def engine(service: Service, name: str) -> EngineView:
    return next(e for e in service.engines().engines if e.engine_id == name)


async def values(service: Service, calls: list[dict[str, object]]) -> list[str | None]:
    sid = await submit(service, calls)
    return [(await get(service, sid, f"v{number}")).value for number in range(len(calls))]


async def lost_for_s(service: Service, name: str, times: int) -> list[float]:
    """How long an engine was down each time before it was started again."""
    clock, found, since_s = asyncio.get_running_loop().time, list[float](), None
    async with asyncio.timeout(40):
        while len(found) < times:
            if engine(service, name).state == "lost":
                since_s = since_s or clock()
            elif since_s is not None:
                found.append(clock() - since_s)
                since_s = None
            await asyncio.sleep(0.005)
    return found


async def test_an_engine_that_dies_soon_after_every_start_is_started_ever_more_rarely() -> None:
    async with service_on_processes({"dies-0": PLAIN, "fine-0": PLAIN}, wait_for=1) as service:
        waits_s = await lost_for_s(service, "dies-0", 4)
        texts = await values(service, [call(f"text {i}", f"v{i}", 4) for i in range(8)])
        assert waits_s[-1] > 4 * waits_s[0], waits_s
        assert all(texts)
        assert engine(service, "fine-0").num_restarts == 0


async def test_an_engine_that_lived_long_enough_is_started_again_soon() -> None:
    async with service_on_processes({"lingers-0": PLAIN}) as service:
        assert max(await lost_for_s(service, "lingers-0", 3)) < 0.15


async def test_an_engine_that_others_kill_again_and_again_is_started_again_soon() -> None:
    async with service_on_processes({"fine-0": PLAIN}) as service:
        waiting = asyncio.create_task(lost_for_s(service, "fine-0", 4))
        while not waiting.done():
            if engine(service, "fine-0").state == "up":
                for pid in engine_processes(PROGRAM):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.05)
        assert max(await waiting) < 0.2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_an_engine_killed_while_it_loads_is_started_again_and_others_serve(
    number: signal.Signals,
) -> None:
    async with service_on_processes({"loads-0": OTHER, "fine-0": PLAIN}, wait_for=1) as service:
        loading: set[int] = set()
        async with asyncio.timeout(20):
            while len(loading) < 3:
                for pid in engine_processes(PROGRAM):
                    if pid not in loading and is_loading(pid):
                        loading.add(pid)
                        os.kill(pid, number)
                await asyncio.sleep(0.05)
        assert await values(service, [call("text", "v0", 4, model="scripted")]) != [None]
        assert engine(service, "fine-0").num_restarts == 0


async def test_what_nobody_asked_for_or_what_comes_again_is_dropped() -> None:
    async with service_on_processes({"babbles-0": PLAIN}) as service:
        asked = [call(f"text {i}", f"v{i}", 12) for i in range(20)]
        told = await values(service, asked)
        assert engine(service, "babbles-0").num_restarts == 0
    async with service_on_processes({"fine-0": PLAIN}) as service:
        assert told == await values(service, asked)


@pytest.mark.parametrize("manner", ["invents", "repeats"])
async def test_tokens_that_cannot_be_fail_the_call_and_go_to_nobody(manner: str) -> None:
    async with service_on_processes({f"{manner}-0": PLAIN}) as service:
        sid = await submit(service, [call("text", "a", 12), follows("a", "b")])
        first, second = await get(service, sid, "a"), await get(service, sid, "b")
        assert first.error is not None
        assert (first.error.code, first.error.data) == ("attempts_exhausted", {"last": "engine_bad_output"})
        assert second.error is not None
        assert (second.error.code, second.state) == ("upstream_failed", "failed")
        assert engine(service, f"{manner}-0").state == "up"


async def test_an_engine_that_sends_no_messages_is_lost_and_its_calls_go_elsewhere() -> None:
    async with service_on_processes({"garbles-0": PLAIN, "fine-0": PLAIN}) as service:
        told = await values(service, [call(f"text {i}", f"v{i}", 12) for i in range(20)])
        assert all(told)
        assert engine(service, "fine-0").num_restarts == 0


async def test_an_engine_that_was_stopped_and_wakes_late_resolves_nothing_twice() -> None:
    slow = ScriptedConfig(decode_step_s=0.05, tokens_per_step=1)
    quick = Liveness(ping_interval_s=0.1, dead_after_s=1.0, stuck_after_s=60)
    async with service_on_processes({"fine-0": slow, "fine-1": slow}, liveness=quick) as service:
        sid = await submit(service, [call(f"text {i}", f"v{i}", 20) for i in range(8)])
        await asyncio.sleep(0.4)
        victim = engine_processes(PROGRAM)[0]
        os.kill(victim, signal.SIGSTOP)
        texts = [(await get(service, sid, f"v{number}")).value for number in range(8)]
        with pytest.raises(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)
        await asyncio.sleep(0.5)
        assert all(texts)
        assert texts == [(await get(service, sid, f"v{number}")).value for number in range(8)]
        assert max(c.attempt for c in service.graph(DEFAULT_TENANT, sid).calls) == 2


async def test_an_engine_that_was_stopped_for_a_moment_goes_on_where_it_was() -> None:
    slow = ScriptedConfig(decode_step_s=0.02, tokens_per_step=1)
    async with service_on_processes({"fine-0": slow}) as service:
        sid = await submit(service, [call("text", "v", 40)])
        await asyncio.sleep(0.3)
        (pid,) = engine_processes(PROGRAM)
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1.0)
        os.kill(pid, signal.SIGCONT)
        assert (await get(service, sid, "v")).state == "ready"
        (told,) = service.graph(DEFAULT_TENANT, sid).calls
        assert (told.attempt, engine(service, "fine-0").num_restarts) == (1, 0)
