"""Calls under no suspicion run beside those that are: nothing waits for a suspect that waits."""

import asyncio

from core_harness import TENANT, call, get, open_session, running_service, submit

from parrot.core.service import Service
from parrot.engine.scripted import ScriptedEngine
from parrot.engine.scripted_config import ScriptedConfig
from parrot.ports.engine import Lost
from parrot.types.ids import EngineId

ONE = ScriptedConfig(decode_step_s=0.01, tokens_per_step=1, max_batch=2)
OTHER = ScriptedConfig(served_name="other")


def state_of(service: Service, sid: str, index: int) -> str:
    return service.graph(TENANT, sid).calls[index].state


async def test_a_place_that_a_suspect_may_not_take_is_given_to_who_may() -> None:
    async with running_service(ONE, OTHER) as service:
        member = service._fleet.members[EngineId("engine-0")]
        sid = await open_session(service)
        suspects = [call(f"{name} {{{{out}}}}", name, max_tokens=400) for name in ("a", "b")]
        await submit(service, sid, *[{**one, "model": "scripted"} for one in suspects])
        async with asyncio.timeout(10):
            while member.load.num_decoded_tokens < 200:
                await asyncio.sleep(0.01)
        engine = member.engine
        assert isinstance(engine, ScriptedEngine)
        engine._end("it went down")
        engine._board.tell(Lost(reason="it went down"))
        async with asyncio.timeout(10):
            while not (member.num_starts == 2 and service.counters()["calls_running"] == 1):
                await asyncio.sleep(0.01)
        await submit(service, sid, {**call("c {{out}}", "c", max_tokens=4), "model": "scripted"})
        assert (await get(service, sid, "c")).state == "ready"
        assert sorted(state_of(service, sid, index) for index in range(2)) == ["ready", "running"]
