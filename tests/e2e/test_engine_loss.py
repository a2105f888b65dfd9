"""Engines that die under load: answers survive, and a call that kills engines is stopped."""

import asyncio
import os
import signal
import sys

import pytest
from engine_harness import call, engine_processes, get, service_on_processes, submit

from parrot.core.limits import Limits
from parrot.core.service import Service
from parrot.engine.scripted_config import ScriptedConfig, ScriptedFault
from parrot.errors import OverLimitError, UnavailableError
from parrot.types.ids import DEFAULT_TENANT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")


def three(config: ScriptedConfig) -> dict[str, ScriptedConfig]:
    return {f"engine-{number}": config for number in range(3)}


async def test_killing_an_engine_costs_time_but_no_answer() -> None:
    config = ScriptedConfig(decode_step_s=0.02, tokens_per_step=1)
    async with service_on_processes(three(config)) as service:
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
    async with service_on_processes(three(config)) as service:
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
    async with service_on_processes(three(ScriptedConfig())) as service:
        for victim in engine_processes():
            os.kill(victim, signal.SIGKILL)
        sid = await submit(service, [call("x", "v", 5)])
        assert (await get(service, sid, "v")).state == "ready"
        assert sum(e.num_restarts for e in service.engines().engines) >= 1


async def test_a_call_that_kills_engines_is_stopped_after_two() -> None:
    config = ScriptedConfig(faults=(ScriptedFault(kind="exit", marker="poison"),))
    async with service_on_processes(three(config)) as service:
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


async def test_calls_beside_one_that_kills_engines_are_not_blamed_for_it() -> None:
    config = ScriptedConfig(
        decode_step_s=0.01,
        tokens_per_step=1,
        faults=(ScriptedFault(kind="exit", marker="poison", after_tokens=3),),
    )
    async with service_on_processes(three(config)) as service:
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


async def test_engines_that_come_and_go_all_the_time_lose_no_call() -> None:
    config = ScriptedConfig(decode_step_s=0.02, tokens_per_step=1)
    async with service_on_processes(three(config), max_restart_delay_s=0.2) as service:
        sids = []
        for _ in range(8):
            sids.append(await submit(service, [call(f"text {i}", f"v{i}", 15) for i in range(10)]))
            victims = engine_processes()
            if len(victims) > 1:
                os.kill(victims[len(sids) % len(victims)], signal.SIGKILL)
            await asyncio.sleep(0.5)
        views = [await get(service, sid, f"v{i}") for sid in sids for i in range(10)]
        assert [view.state for view in views] == ["ready"] * 80
        assert sum(e.num_restarts for e in service.engines().engines) >= 4
        assert max(c.attempt for sid in sids for c in service.graph(DEFAULT_TENANT, sid).calls) <= 6


@pytest.mark.parametrize(
    ("limits", "refusal"),
    [
        (Limits(max_queued_calls=20), OverLimitError),
        (Limits(max_queued_calls=50, max_queued_calls_total=20), UnavailableError),
    ],
)
async def test_while_every_engine_is_down_calls_wait_up_to_the_bound_and_all_run_later(
    limits: Limits, refusal: type[Exception]
) -> None:
    async with service_on_processes(three(ScriptedConfig()), limits=limits) as service:
        service.set_tenants({}, metered=True)
        for victim in engine_processes():
            os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(20):
            while any(e.state == "up" for e in service.engines().engines):
                await asyncio.sleep(0.005)
        sids = [await submit(service, [call(f"text {k} {i}", f"v{i}", 5) for i in range(10)]) for k in "ab"]
        with pytest.raises(refusal):
            await submit(service, [call("one more", "v", 5)])
        views = [await get(service, sid, f"v{i}") for sid in sids for i in range(10)]
        assert [view.state for view in views] == ["ready"] * 20
        assert (await get(service, await submit(service, [call("x", "v", 5)]), "v")).state == "ready"
