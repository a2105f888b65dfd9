"""The graph says why each call ran where and when it did, and goes on saying so."""

import asyncio
from typing import Any

from core_harness import TENANT, call, get, open_session, running_service, submit
from store_fakes import UnsteadyStore

from parrot.core.estimates import OutputLengths
from parrot.core.limits import Limits
from parrot.core.recovery import rebuild
from parrot.core.service import Service
from parrot.core.service_config import ServiceConfig
from parrot.core.sessions import analyse
from parrot.core.views import graph_view
from parrot.engine.scripted_config import ScriptedConfig, ScriptedFault
from parrot.types.ids import SessionId
from parrot.wire.answers import CallNode, GraphView
from parrot.wire.requests import CancelRequest

SLOW = ScriptedConfig(decode_step_s=0.01, tokens_per_step=1, prefill_tokens_per_s=20_000)
RULES = "You are a careful member of the team and follow every one of its many rules. " * 12


def by_output(graph: GraphView) -> dict[str, CallNode]:
    """The calls by the names of their outputs."""
    names = {variable.variable_id: variable.name for variable in graph.variables}
    return {str(names[node.outputs["out"]]): node for node in graph.calls}


def critical(graph: GraphView) -> list[str]:
    """The critical path by the names of outputs."""
    outputs = {node.call_id: name for name, node in by_output(graph).items()}
    return [outputs[call_id] for call_id in graph.critical_path]


async def map_reduce(service: Service, **session: object) -> str:
    sid = await open_session(service, **session)
    maps = [call(f"Map {i}: {{{{out}}}}", f"m{i}", max_tokens=10 + 10 * (i == 1)) for i in range(3)]
    joined = call("{{x0}} {{x1}} {{x2}}{{out}}", "r", x0="$m0", x1="$m1", x2="$m2")
    await submit(service, sid, *maps, joined)
    return sid


async def test_reasons_and_groups_stay_after_calls_have_ended() -> None:
    async with running_service(SLOW) as service:
        sid = await map_reduce(service)
        assert (await get(service, sid, "r")).state == "ready"
        found = by_output(service.graph(TENANT, sid))
    assert {found[f"m{i}"].task_group for i in range(3)} == {f"{found['r'].call_id}/0"}
    assert "wanted together" in found["m0"].why_objective
    assert "its group" in found["m0"].why_engine
    assert found["m0"].why == f"{found['m0'].why_objective}; {found['m0'].why_engine}"
    assert "final result" in found["r"].why_objective


async def test_reasons_and_times_stay_after_a_restart() -> None:
    store = UnsteadyStore()
    async with running_service(SLOW, store=store) as service:
        sid = await map_reduce(service)
        assert (await get(service, sid, "r")).state == "ready"
        before = service.graph(TENANT, sid)
        session, _ = rebuild(await store.load_session(SessionId(sid)), Limits())
        analyse(session, OutputLengths())
        after = graph_view(session, now_s=session.created_at)
    without_spans = {"ahead_began_s": None, "ahead_ended_s": None}
    assert [
        node.model_copy(update={"times": node.times.model_copy(update=without_spans)})
        for node in before.calls
    ] == list(after.calls)
    assert after.critical_path == before.critical_path


async def test_the_critical_path_of_what_is_done_goes_through_the_slowest_producer() -> None:
    async with running_service(SLOW) as service:
        sid = await map_reduce(service)
        assert (await get(service, sid, "r")).state == "ready"
        graph = service.graph(TENANT, sid)
    assert critical(graph) == ["m1", "r"]
    assert [node.call_id for node in graph.calls if node.critical] == list(graph.critical_path)


async def test_the_critical_path_of_what_is_open_is_the_chain_of_most_work() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        long = call("{{x}} at length {{out}}", "long", x="$a", max_tokens=200)
        short = call("{{x}} in short {{out}}", "short", x="$a", max_tokens=5)
        await submit(service, sid, call("{{x}} {{out}}", "a", x="$input"), short, long)
        assert critical(service.graph(TENANT, sid)) == ["a", "long"]


async def test_slack_shrinks_and_is_told_while_calls_are_open_only() -> None:
    async with running_service(SLOW) as service:
        sid = await map_reduce(service, deadline_s=60)
        first = by_output(service.graph(TENANT, sid))
        await asyncio.sleep(0.05)
        second = by_output(service.graph(TENANT, sid))
        assert (await get(service, sid, "r")).state == "ready"
        last = service.graph(TENANT, sid)
    slack = [first["r"].slack_s, second["r"].slack_s]
    assert slack[0] is not None
    assert slack[1] is not None
    assert 50 < slack[1] < slack[0] < 60
    assert first["m0"].slack_s is not None
    assert first["m0"].slack_s < slack[0]
    assert {node.slack_s for node in last.calls} == {None}
    assert last.deadline_s == 60


async def test_a_call_that_never_ran_keeps_the_objective_that_it_had() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service, objective="throughput")
        await submit(
            service, sid, call("{{x}} {{out}}", "a", x="$input"), call("{{y}} more {{out}}", "b", y="$a")
        )
        await service.cancel(TENANT, sid, CancelRequest())
        found = by_output(service.graph(TENANT, sid))
    assert {(node.state, node.objective) for node in found.values()} == {("cancelled", "throughput")}
    assert "feeds" in found["a"].why_objective


async def test_what_is_filled_ahead_lies_in_the_wait_for_inputs() -> None:
    config = ServiceConfig(without=("pipelining",))
    async with running_service(SLOW, config=config) as service:
        sid = await open_session(service)
        await submit(
            service,
            sid,
            call("Begin: {{out}}", "a", max_tokens=40),
            call(RULES + "{{x}} go on {{out}}", "b", x="$a"),
        )
        assert (await get(service, sid, "b")).state == "ready"
        times = by_output(service.graph(TENANT, sid))["b"].times
    assert times.ahead_began_s is not None
    assert times.ahead_ended_s is not None
    assert times.ready_s is not None
    assert times.submitted_s <= times.ahead_began_s < times.ahead_ended_s < times.ready_s


async def test_a_retried_call_tells_the_times_of_its_last_attempt() -> None:
    fault = ScriptedFault(kind="raise", marker="Begin", after_tokens=20, times=1)
    engine = ScriptedConfig(decode_step_s=0.005, tokens_per_step=1, faults=(fault,))
    async with running_service(engine) as service:
        sid = await open_session(service)
        await submit(service, sid, call("Begin: {{out}}", "a", max_tokens=40))
        assert (await get(service, sid, "a")).state == "ready"
        node = by_output(service.graph(TENANT, sid))["a"]
    assert node.attempt == 2
    assert node.times.placed_s is not None
    assert node.times.first_token_s is not None
    assert node.times.first_token_s > node.times.placed_s


async def test_calls_share_their_beginning_with_a_prompt_that_is_filled_ahead_in_the_same_moment() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        begin = "{{run}} " + RULES
        maps = [call(f"{begin} Map {i}: {{{{out}}}}", f"m{i}", run="Run 7, which is new.") for i in range(4)]
        joined = "".join(f"{{{{x{i}}}}}" for i in range(4))
        inputs: dict[str, Any] = {"run": "Run 7, which is new.", **{f"x{i}": f"$m{i}" for i in range(4)}}
        reduce = call(f"{{{{run}}}} Join all that {RULES} {joined} {{{{out}}}}", "r", **inputs)
        await submit(service, sid, *maps, reduce)
        assert (await get(service, sid, "r")).state == "ready"
        found = by_output(service.graph(TENANT, sid))
    assert all(found[f"m{i}"].tokens.shared > 0 for i in range(1, 4))
