"""Applications of a program in the service's process: the same graph, without what clients need."""

import asyncio

import pytest
from core_harness import TENANT, call, get, open_session, running_service, submit

from parrot.core.executor.direct import Constant, DirectCall, Generated, Given, Named
from parrot.engine.scripted_config import ScriptedAnswer, ScriptedConfig, ScriptedFault
from parrot.errors import CallError, ConflictError, GoneError, NotFoundError, ParrotError
from parrot.types.sampling import Sampling

MODEL = "scripted"
SAMPLING = Sampling(max_tokens=8, ignore_eos=True)
TRANSLATOR = ScriptedConfig(
    answers=(
        ScriptedAnswer(pattern="Say one.", answer="uno"),
        ScriptedAnswer(pattern="Translate uno:", answer="one"),
    )
)


def chain() -> list[DirectCall]:
    """Two calls, the second of which reads the first."""
    return [
        DirectCall("say", [Constant("Say one."), Generated("word", SAMPLING)]),
        DirectCall(
            "translate",
            [Constant("Translate "), Named("word"), Constant(":"), Generated("english", SAMPLING)],
        ),
    ]


async def test_values_flow_as_they_do_for_clients() -> None:
    async with running_service(TRANSLATOR) as service:
        session = service.direct.open(TENANT)
        service.direct.submit(session, MODEL, chain())
        direct = await service.direct.values(session, ["english", "word"], "latency")
        sid = await open_session(service)
        await submit(
            service,
            sid,
            call("Say one.{{out}}", "word"),
            call("Translate {{w}}:{{out}}", "english", w="$word"),
        )
        sent = [(await get(service, sid, name)).value for name in ("english", "word")]
        assert direct == sent
        names = {node.name: node.stage for node in service.graph(TENANT, session.session_id).calls}
        assert names == {"say": 0, "translate": 1}


async def test_calls_may_come_before_what_they_read() -> None:
    async with running_service(TRANSLATOR) as service:
        session = service.direct.open(TENANT)
        say, translate = chain()
        service.direct.submit(session, MODEL, [translate, say])
        assert await service.direct.values(session, ["word"])
        assert await service.direct.values(session, ["english"])


@pytest.mark.parametrize(
    ("model", "calls", "error"),
    [
        pytest.param("nobody's", chain(), NotFoundError, id="model"),
        pytest.param(MODEL, chain()[1:], NotFoundError, id="variable"),
        pytest.param(MODEL, [*chain(), *chain()[:1]], ConflictError, id="two producers"),
        pytest.param(
            MODEL, [DirectCall("a", [Given(""), Generated("x", SAMPLING)])], ParrotError, id="empty prompt"
        ),
    ],
)
async def test_a_refused_submission_changes_nothing(
    model: str, calls: list[DirectCall], error: type[ParrotError]
) -> None:
    async with running_service(TRANSLATOR) as service:
        session = service.direct.open(TENANT)
        with pytest.raises(error):
            service.direct.submit(session, model, calls)
        assert not session.graph.calls
        assert not session.graph.variables
        assert not session.records


async def test_a_value_that_fails_says_why() -> None:
    fault = ScriptedFault(kind="bad_output", marker="Say one")
    async with running_service(ScriptedConfig(faults=(fault,))) as service:
        session = service.direct.open(TENANT)
        service.direct.submit(session, MODEL, chain())
        with pytest.raises(CallError) as failed:
            await service.direct.values(session, ["english"])
        assert failed.value.code == "upstream_failed"


async def test_who_comes_after_the_end_is_told() -> None:
    async with running_service(ScriptedConfig(decode_step_s=0.05, tokens_per_step=1)) as service:
        session = service.direct.open(TENANT)
        service.direct.submit(session, MODEL, chain())
        service.direct.close(session)
        async with asyncio.timeout(10):
            with pytest.raises(GoneError):
                await service.direct.values(session, ["english"])


async def test_closing_ends_who_waits_and_what_runs() -> None:
    async with running_service(ScriptedConfig(decode_step_s=0.05, tokens_per_step=1)) as service:
        session = service.direct.open(TENANT)
        long = Sampling(max_tokens=500, ignore_eos=True)
        service.direct.submit(session, MODEL, [DirectCall("a", [Constant("Write"), Generated("x", long)])])
        waiting = asyncio.create_task(service.direct.values(session, ["x"]))
        while session.graph.counts["running"] == 0:
            await asyncio.sleep(0.01)
        service.direct.close(session)
        service.direct.close(session)
        with pytest.raises(GoneError):
            await waiting
        async with asyncio.timeout(30):
            while service.counters()["calls_running"]:
                await asyncio.sleep(0.01)


async def test_nobody_else_hears_of_a_direct_session() -> None:
    async with running_service(TRANSLATOR) as service:
        heard: list[str] = []

        async def listen() -> None:
            async for event in service.watch():
                heard.append(event.session_id)

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        session = service.direct.open(TENANT)
        service.direct.submit(session, MODEL, chain())
        await service.direct.values(session, ["english"])
        service.direct.close(session)
        sid = await open_session(service)
        async with asyncio.timeout(30):
            while sid not in heard:
                await asyncio.sleep(0.01)
        listening.cancel()
        assert session.session_id not in heard
