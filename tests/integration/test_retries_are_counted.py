"""A call that is tried again is counted like any other while it runs, and charged for each attempt."""

import asyncio

from core_harness import TENANT, call, get, open_session, running_service, submit

from parrot.engine.scripted_config import ScriptedConfig, ScriptedFault

FAILS_ONCE = ScriptedConfig(
    decode_step_s=0.02,
    tokens_per_step=1,
    faults=(ScriptedFault(kind="raise", marker="unlucky", after_tokens=4, times=1),),
)


async def test_a_second_attempt_holds_what_the_first_did() -> None:
    async with running_service(FAILS_ONCE) as service:
        occupancy, fair = service._admission.occupancy, service._dispatcher._ready._fair
        assert fair is not None
        sid = await open_session(service)
        await submit(service, sid, call("unlucky {{out}}", "a", max_tokens=20))
        held: dict[int, set[int]] = {1: set(), 2: set()}
        async with asyncio.timeout(10):
            while service.graph(TENANT, sid).calls[0].state != "done":
                node = service.graph(TENANT, sid).calls[0]
                if node.state == "running":
                    held[node.attempt].add(occupancy.kv_tokens[TENANT])
                    assert fair._charged
                await asyncio.sleep(0.005)
        assert (await get(service, sid, "a")).state == "ready"
        assert held[1] == held[2] != {0}
        # Twice the prompt and once the output, which costs twice as much.
        num_prompt = service.graph(TENANT, sid).calls[0].tokens.prompt
        assert fair.counter(TENANT) == 2 * num_prompt + 2 * 20
