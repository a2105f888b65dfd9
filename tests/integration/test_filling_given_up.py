"""What is filled ahead ends with those it is for: no sooner, and not much later."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest
from core_harness import TENANT, call, get, open_session, running_service, submit

from parrot.core.service import Service
from parrot.engine.scripted import ScriptedEngine
from parrot.engine.scripted_config import ScriptedConfig
from parrot.errors import EngineError
from parrot.ports.engine import GenerateChunk, GenerateRequest
from parrot.wire.answers import EngineView
from parrot.wire.functions import FunctionSpec
from parrot.wire.requests import CancelRequest, SetVariable

SLOW = ScriptedConfig(
    decode_step_s=0.01, tokens_per_step=1, prefill_tokens_per_s=2000, step_tokens=64, context_tokens=32_768
)
RULES = "You are a careful member of the team and follow every one of its many rules. "
LONG, SHORT = RULES * 600, RULES * 20
WAITING = "{{w}} {{x}} {{out}}"


def engine_of(service: Service) -> EngineView:
    (engine,) = service.engines().engines
    return engine


async def until(service: Service, holds: Callable[[EngineView], bool], *, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not holds(engine_of(service)):
            await asyncio.sleep(0.01)


async def until_filling(service: Service) -> None:
    await until(service, lambda engine: engine.num_owned_blocks > 10, within_s=20)


async def until_free(service: Service) -> None:
    """Nothing is filled any more, long before it would be done."""
    await until(service, lambda engine: not (engine.num_owned_blocks or engine.num_running), within_s=2)


async def test_what_two_applications_wait_for_ends_when_both_have_left() -> None:
    async with running_service(SLOW) as service:
        first, second = [await open_session(service) for _ in range(2)]
        await submit(service, first, call(WAITING, "v", w=LONG, x="$x"))
        await until_filling(service)
        await submit(service, second, call(WAITING, "v", w=LONG, x="$x"))
        await service.delete_session(TENANT, first)
        before = engine_of(service).num_owned_blocks
        await until(service, lambda engine: engine.num_owned_blocks > before + 10, within_s=20)
        await service.delete_session(TENANT, second)
        await until_free(service)
        assert engine_of(service).num_prefilled_tokens < len(LONG.split())


async def test_who_stays_finds_what_was_begun_for_who_left() -> None:
    async with running_service(SLOW) as service:
        first, second = [await open_session(service) for _ in range(2)]
        await submit(service, first, call(WAITING, "v", w=SHORT, x="$x"))
        await submit(service, second, call(WAITING, "v", w=SHORT, x="$x"))
        await service.delete_session(TENANT, first)
        await service.set_variable(TENANT, second, "x", SetVariable(value="now"))
        assert (await get(service, second, "v")).state == "ready"
        node = service.graph(TENANT, second).calls[0]
        assert node.tokens.shared > 200
        assert engine_of(service).num_prefilled_tokens < node.tokens.prompt + 20


async def test_a_running_call_that_forked_from_it_keeps_it_until_it_is_cancelled_too() -> None:
    async with running_service(SLOW) as service:
        first, second = [await open_session(service) for _ in range(2)]
        await submit(service, first, call(WAITING, "v", w=LONG, x="$x"))
        await until_filling(service)
        await submit(service, second, call("{{w}} now {{out}}", "v", w=LONG))
        async with asyncio.timeout(20):
            while service.counters()["calls_running"] < 1:
                await asyncio.sleep(0.01)
        await service.delete_session(TENANT, first)
        await asyncio.sleep(0.2)
        assert engine_of(service).num_owned_blocks > 10
        await service.cancel(TENANT, second, CancelRequest())
        await until_free(service)


async def test_a_call_that_waits_for_half_of_it_fills_that_for_itself() -> None:
    async with running_service(SLOW) as service:
        first, second = [await open_session(service) for _ in range(2)]
        await submit(service, first, call("{{w}} {{more}} {{x}} {{out}}", "v", w=SHORT, more=LONG, x="$x"))
        async with asyncio.timeout(20):
            while not engine_of(service).num_owned_blocks:
                await asyncio.sleep(0.002)
        await submit(service, second, call("{{w}} now {{out}}", "v", w=SHORT))
        async with asyncio.timeout(20):
            while service.counters()["calls_running"] < 1:
                await asyncio.sleep(0.002)
        await service.delete_session(TENANT, first)
        assert (await get(service, second, "v")).state == "ready"
        await until_free(service)


async def test_the_only_follower_of_an_output_leaves_and_the_output_goes_on() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        first = call("Begin: {{out}}", "a", max_tokens=300)
        accepted = await submit(service, sid, first, call("{{w}} {{a}} {{out}}", "b", w=LONG, a="$a"))
        await until_filling(service)
        await service.cancel(TENANT, sid, CancelRequest(calls=[accepted.calls[1].call_id]))
        await until(service, lambda engine: engine.num_running == 1, within_s=2)
        piped = service.counters()["piped_tokens"]
        assert (await get(service, sid, "a")).state == "ready"
        assert service.counters()["piped_tokens"] <= piped, "nobody took its tokens any more"
        await until_free(service)


async def test_what_stands_before_an_output_that_was_cut_remains() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        # The scripted model ends sentences with full stops, so its output is cut.
        first = call("Begin: {{out}}", "a", max_tokens=300)
        first["parameters"]["out"]["output"]["sampling"] |= {"stop": ["."], "min_tokens": 60}
        await submit(service, sid, first, call("{{w}} {{a}} {{out}}", "b", w=SHORT, a="$a"))
        assert (await get(service, sid, "b")).state == "ready"
        calls = service.graph(TENANT, sid).calls
        assert calls[1].tokens.shared > 200
        assert engine_of(service).num_prefilled_tokens < calls[0].tokens.prompt + calls[1].tokens.prompt + 20


async def test_who_leaves_while_a_function_is_warmed_leaves_nothing() -> None:
    async with running_service(SLOW) as service:
        spec = FunctionSpec.model_validate({"template": LONG + " {{x}} {{out}}", "outputs": {"out": {}}})
        await service.functions.register(TENANT, "long", spec)
        warming = asyncio.ensure_future(service.functions.warm(TENANT, "long"))
        await until_filling(service)
        warming.cancel()
        await asyncio.wait([warming])
        await until_free(service)
        assert (await service.functions.warm(TENANT, "long")).engines[0].num_filled_tokens > 1000


async def test_who_follows_a_second_output_while_the_first_is_still_filled_leaves_neither() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        accepted = await submit(
            service,
            sid,
            call("Begin: {{out}}", "a"),
            call("Go on: {{a}} {{out}}", "b", a="$a", max_tokens=300),
            call("{{w}} {{a}} {{b}} {{out}}", "c", w=LONG, a="$a", b="$b"),
        )
        assert (await get(service, sid, "a")).state == "ready"
        await until(service, lambda engine: engine.num_decoded_tokens > 20, within_s=20)
        assert engine_of(service).num_prefilled_tokens < 4000, "the first is still filled"
        await service.cancel(TENANT, sid, CancelRequest(calls=[accepted.calls[2].call_id]))
        await until(service, lambda engine: engine.num_running == 1 and not engine.num_waiting, within_s=1)
        assert service.counters()["calls_running"] == 1, "the second output goes on"
        assert (await get(service, sid, "b")).state == "ready"
        await until_free(service)


async def test_what_another_application_waits_for_stays_when_all_who_followed_an_output_have_left() -> None:
    async with running_service(SLOW) as service:
        first, second = [await open_session(service) for _ in range(2)]
        text = RULES * 100
        await submit(
            service,
            first,
            call("Begin: {{out}}", "a"),
            call("{{w}} {{a}} {{y}} {{out}}", "b", w=text, a="$a", y="$y"),
            call("{{w}} {{a}} {{y}} {{out}}", "c", w=text, a="$a", y="$y"),
        )
        await until_filling(service)
        await submit(service, second, call(WAITING, "v", w=text, x="$x"))
        assert (await get(service, first, "a")).state == "ready"
        await asyncio.sleep(0.05)
        await service.cancel(TENANT, first, CancelRequest())
        assert engine_of(service).num_prefilled_tokens < 1200, "what stands before the output is still filled"
        await asyncio.sleep(1.5)
        await service.set_variable(TENANT, second, "x", SetVariable(value="now"))
        assert (await get(service, second, "v")).state == "ready"
        node = service.graph(TENANT, second).calls[0]
        assert node.tokens.shared > 1400
        await until_free(service)


async def test_an_output_that_begins_again_is_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generate, num_gone = ScriptedEngine.generate, 0

    async def evicted_once(
        engine: ScriptedEngine, request: GenerateRequest
    ) -> AsyncGenerator[GenerateChunk, None]:
        nonlocal num_gone
        if request.parent is not None and not num_gone:
            num_gone += 1
            raise EngineError("its parent was evicted", code="context_gone")
        async for chunk in generate(engine, request):
            yield chunk

    monkeypatch.setattr(ScriptedEngine, "generate", evicted_once)
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        await submit(service, sid, call("{{w}} {{out}}", "z", w=SHORT))
        assert (await get(service, sid, "z")).state == "ready"
        first = call("{{w}} begin: {{out}}", "a", w=SHORT, max_tokens=150)
        accepted = await submit(service, sid, first, call("{{w}} {{a}} {{out}}", "b", w=SHORT * 2, a="$a"))
        await until(service, lambda engine: engine.num_decoded_tokens > 90, within_s=20)
        assert num_gone == 1
        await service.cancel(TENANT, sid, CancelRequest(calls=[accepted.calls[1].call_id]))
        piped = service.counters()["piped_tokens"]
        assert 0 < piped <= 150
        assert (await get(service, sid, "a")).state == "ready"
        assert service.counters()["piped_tokens"] <= piped, "nobody took its tokens any more"


async def test_what_ended_with_its_engine_cannot_be_forked_from(monkeypatch: pytest.MonkeyPatch) -> None:
    generate, services = ScriptedEngine.generate, list[Service]()

    async def lost_with_the_last_token(
        engine: ScriptedEngine, request: GenerateRequest
    ) -> AsyncGenerator[GenerateChunk, None]:
        async for chunk in generate(engine, request):
            if chunk.end is not None:
                fleet = services[0]._fleet
                fleet.note_lost(fleet.members[engine.info.engine_id], engine)
            yield chunk

    monkeypatch.setattr(ScriptedEngine, "generate", lost_with_the_last_token)
    async with running_service(SLOW) as service:
        services.append(service)
        sid = await open_session(service)
        first = call("Begin: {{out}}", "a", max_tokens=100)
        await submit(service, sid, first, call("{{w}} {{a}} {{out}}", "b", w=SHORT, a="$a"))
        assert (await get(service, sid, "a")).state == "ready"
        assert service.counters()["piped_tokens"] > 0
        assert service._fleet.index.num_keys == 0
