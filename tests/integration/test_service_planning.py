"""What the service does with the graph: objectives, filling ahead, fairness; none of it changes a result."""

import asyncio
from typing import Any, get_args

import pytest
from core_harness import TENANT, call, get, open_session, running_service, submit

from parrot.core.service import Service
from parrot.core.service_config import Ingredient, PolicyName, ServiceConfig
from parrot.engine.scripted_config import ScriptedConfig, ScriptedFault
from parrot.types.ids import TenantId
from parrot.wire.answers import CallNode
from parrot.wire.requests import SessionCreate, SetVariable, SubmitCalls

SLOW = ScriptedConfig(decode_step_s=0.01, tokens_per_step=1, prefill_tokens_per_s=20_000)
RULES = "You are a careful member of the team and follow every one of its many rules. " * 12


def nodes(service: Service, sid: str) -> dict[str, CallNode]:
    """The session's calls by the name of their output."""
    graph = service.graph(TENANT, sid)
    names = {variable.variable_id: variable.name for variable in graph.variables}
    return {str(names[n.outputs["out"]]): n for n in graph.calls}


def chain(length: int, *, max_tokens: int = 20) -> list[dict[str, Any]]:
    calls = [call("Begin: {{out}}", "v0", max_tokens=max_tokens)]
    calls += [
        call(f"{RULES} Step {i}: {{{{x}}}} go on {{{{out}}}}", f"v{i}", x=f"$v{i - 1}", max_tokens=max_tokens)
        for i in range(1, length)
    ]
    return calls


def reduce(num_maps: int, prefix: str = "") -> dict[str, Any]:
    joined = " ".join(f"{{{{x{i}}}}}" for i in range(num_maps))
    inputs: dict[str, Any] = {f"x{i}": f"$m{i}" for i in range(num_maps)}
    return call(prefix + joined + "{{out}}", "r", **inputs)


async def test_a_map_reduce_has_a_task_group_and_a_final_call_that_is_waited_for() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        maps = [call(f"Map {i}: {{{{out}}}}", f"m{i}", max_tokens=30) for i in range(6)]
        await submit(service, sid, *maps, reduce(6))
        await service.get_variable(TENANT, sid, "r", objective="latency")
        found = nodes(service, sid)
        groups = {found[f"m{i}"].task_group for i in range(6)}
        assert len(groups) == 1
        assert None not in groups
        assert found["r"].task_group is None
        assert found["r"].objective == "latency"
        assert found["m0"].why


async def test_a_throughput_annotation_marks_everything_above_it() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        await submit(service, sid, *chain(3, max_tokens=60))
        await service.get_variable(TENANT, sid, "v2", objective="throughput")
        assert {n.objective for n in nodes(service, sid).values()} == {"throughput"}


async def test_what_stands_before_a_missing_input_is_filled_while_it_is_made() -> None:
    config = ServiceConfig(without=("pipelining",), restart_delay_s=0.01)
    async with running_service(SLOW, config=config) as service:
        sid = await open_session(service)
        await submit(service, sid, *chain(3))
        assert (await get(service, sid, "v2")).state == "ready"
        tokens = nodes(service, sid)["v1"].tokens
        assert tokens.ahead > 150
        assert tokens.ahead <= tokens.shared < tokens.prompt


async def test_a_prompt_takes_its_input_while_it_is_generated() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        await submit(service, sid, *chain(3, max_tokens=200))
        assert (await get(service, sid, "v2")).state == "ready"
        tokens = nodes(service, sid)["v1"].tokens
        assert tokens.prompt - tokens.shared < 100, "the last that came is left to the call itself"
        assert tokens.ahead > 300


async def test_inputs_that_clients_set_are_filled_as_they_come() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        await submit(service, sid, call("{{a}} and {{b}} {{out}}", "v", a="$a", b="$b"))
        await service.set_variable(TENANT, sid, "a", SetVariable(value=RULES))
        async with asyncio.timeout(30):
            while not any(e.num_cached_blocks for e in service.engines().engines):
                await asyncio.sleep(0.02)
        await service.set_variable(TENANT, sid, "b", SetVariable(value="little"))
        assert (await get(service, sid, "v")).state == "ready"
        assert nodes(service, sid)["v"].tokens.ahead > 150


async def test_a_producer_that_fails_half_way_leaves_nothing_behind() -> None:
    fault = ScriptedFault(kind="raise", marker="Begin", after_tokens=20)
    config = ScriptedConfig(decode_step_s=0.005, tokens_per_step=1, faults=(fault,))
    async with running_service(config) as service:
        sid = await open_session(service)
        await submit(service, sid, *chain(3, max_tokens=40))
        assert (await get(service, sid, "v2")).state == "failed"
        async with asyncio.timeout(30):
            while any(e.num_owned_blocks for e in service.engines().engines):
                await asyncio.sleep(0.02)
        (engine,) = service.engines().engines
        assert engine.num_cached_blocks + engine.num_free_blocks == engine.num_blocks


async def test_a_retried_producer_is_followed_again() -> None:
    fault = ScriptedFault(kind="raise", marker="Begin", after_tokens=20, times=1)
    config = ScriptedConfig(decode_step_s=0.005, tokens_per_step=1, faults=(fault,))
    plain = ScriptedConfig(decode_step_s=0.005, tokens_per_step=1)
    values = []
    for scripted in (config, plain):
        async with running_service(scripted) as service:
            sid = await open_session(service)
            await submit(service, sid, *chain(3, max_tokens=40))
            values.append([(await get(service, sid, f"v{i}")).value for i in range(3)])
    assert values[0] == values[1]
    assert all(values[0])


async def results(config: ServiceConfig, *engines: ScriptedConfig) -> list[str | None]:
    async with running_service(*engines, config=config) as service:
        sid = await open_session(service)
        maps = [call(RULES + f"Map {i}: {{{{out}}}}", f"m{i}", max_tokens=12) for i in range(5)]
        tail = [call(RULES + "{{x}} again {{out}}", f"t{i}", x="$r", max_tokens=10) for i in range(3)]
        await submit(service, sid, *maps, reduce(5, RULES), *tail)
        names = [f"m{i}" for i in range(5)] + ["r", "t0", "t1", "t2"]
        return [(await get(service, sid, name)).value for name in names]


VARIANTS = [ServiceConfig(policy=policy) for policy in get_args(PolicyName)]
VARIANTS += [ServiceConfig(without=(ingredient,)) for ingredient in get_args(Ingredient)]
VARIANTS += [ServiceConfig(without=get_args(Ingredient))]


@pytest.mark.parametrize(
    "config", VARIANTS, ids=lambda c: f"{c.policy}-without-{','.join(c.without) or 'nothing'}"
)
async def test_results_do_not_depend_on_policy_or_ingredients(config: ServiceConfig) -> None:
    fast = ScriptedConfig(decode_step_s=0.001, tokens_per_step=4)
    small = ScriptedConfig(decode_step_s=0.001, tokens_per_step=4, num_blocks=120, max_batch=2)
    expected = await results(ServiceConfig(policy="fifo", without=get_args(Ingredient)), fast)
    assert await results(config, fast, small) == expected
    assert all(expected)


async def test_a_tenant_with_few_calls_is_not_held_up_by_one_with_many() -> None:
    engine = ScriptedConfig(decode_step_s=0.01, tokens_per_step=1, max_batch=4)
    many, few = TenantId("many"), TenantId("few")
    async with running_service(engine, config=ServiceConfig(latency_target_s=1.0)) as service:

        async def run(tenant: TenantId, count: int) -> float:
            begin = asyncio.get_running_loop().time()
            sid = (await service.open_session(tenant, SessionCreate())).session_id
            calls = [call(f"{tenant} {i} {{{{out}}}}", f"v{i}", max_tokens=10) for i in range(count)]
            await service.submit(tenant, sid, SubmitCalls.model_validate({"calls": calls}))
            for i in range(count):
                await service.get_variable(tenant, sid, f"v{i}", wait_s=30)
            return asyncio.get_running_loop().time() - begin

        heavy = asyncio.create_task(run(many, 60))
        await asyncio.sleep(0.3)
        light = await run(few, 4)
        assert light < await heavy / 3


@pytest.mark.parametrize("retention", [True, False])
async def test_what_a_waiting_call_will_need_is_evicted_last(*, retention: bool) -> None:
    config = ServiceConfig(without=("prefill-ahead",) if retention else ("prefill-ahead", "retention"))
    async with running_service(ScriptedConfig(num_blocks=60), config=config) as service:
        sid = await open_session(service)
        await submit(service, sid, call(RULES + "{{x}} {{out}}", "first", x="one"))
        await get(service, sid, "first")
        await submit(service, sid, call(RULES + "{{x}} {{out}}", "late", x="$unset"))
        await asyncio.sleep(0.05)
        for i in range(12):
            await submit(service, sid, call(f"Other text number {i}. " * 20 + "{{out}}", f"other{i}"))
            await get(service, sid, f"other{i}")
        await service.set_variable(TENANT, sid, "unset", SetVariable(value="two"))
        assert (await get(service, sid, "late")).state == "ready"
        async with asyncio.timeout(30):
            while service.engines().engines[0].num_evictions <= 5:
                await asyncio.sleep(0.05)
        shared = nodes(service, sid)["late"].tokens.shared
        assert (shared > 150) is retention


async def test_nothing_is_wanted_when_nothing_waits() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        await submit(service, sid, *chain(4), call("{{x}} {{out}}", "never", x="$unset"))
        await get(service, sid, "v3")
        await service.delete_session(TENANT, sid)
        assert service.counters()["prefixes_wanted"] == 0
