"""Sessions that end with much under way in them, and graphs of which a branch fails."""

import asyncio

from core_harness import TENANT, call, get, open_session, running_service, submit

from parrot.core.limits import Limits
from parrot.core.service import Service
from parrot.engine.scripted_config import ScriptedConfig, ScriptedFault
from parrot.errors import GoneError

SLOW = ScriptedConfig(decode_step_s=0.02, tokens_per_step=1, max_batch=8)
FREED_WITHIN_S = 2.0


async def until_free(service: Service) -> float:
    """Seconds until no call runs, nobody waits, and the engine owns no block."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with asyncio.timeout(20):
        while True:
            counters, (engine,) = service.counters(), service.engines().engines
            if not (counters["calls_running"] or counters["waiters"] or engine.num_owned_blocks):
                return loop.time() - began_s
            await asyncio.sleep(0.01)


async def test_a_session_with_500_calls_is_deleted_whole_within_two_seconds() -> None:
    limits = Limits(max_pending_calls=1000)
    async with running_service(SLOW, limits=limits) as service:
        sid = await open_session(service)
        free = [call(f"text {i} {{{{out}}}}", f"v{i}", max_tokens=400) for i in range(250)]
        behind = [call("{{x}} {{out}}", f"w{i}", x=f"$v{i}") for i in range(250)]
        await submit(service, sid, *free, *behind)
        readers = [asyncio.ensure_future(get(service, sid, f"w{i}", 20)) for i in range(0, 250, 10)]
        async with asyncio.timeout(20):
            while service.counters()["calls_running"] < 4 or service.counters()["waiters"] < len(readers):
                await asyncio.sleep(0.01)
        began_s = asyncio.get_running_loop().time()
        await service.delete_session(TENANT, sid)
        took_s = asyncio.get_running_loop().time() - began_s
        took_s += await until_free(service)
        ended = await asyncio.gather(*readers, return_exceptions=True)
        assert {getattr(e, "code", e) for e in ended} == {"session_closed"}
        counters = service.counters()
        assert (counters["calls_waiting"], counters["sessions_open"]) == (0, 0)
        assert took_s < FREED_WITHIN_S


async def test_a_session_whose_time_is_up_ends_what_runs_and_tells_who_waits() -> None:
    async with running_service(SLOW, limits=Limits(session_ttl_s=0.5)) as service:
        sid = await open_session(service)
        await submit(service, sid, call("x {{out}}", "a", max_tokens=900), call("{{a}} {{out}}", "b", a="$a"))
        waiting = [asyncio.ensure_future(get(service, sid, name, 20)) for name in ("a", "b")]
        items = service.stream_session(TENANT, sid)
        told = [item.event async for item in items]
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in ended] == [GoneError] * 2
        assert {getattr(error, "code", None) for error in ended} == {"session_expired"}
        assert told[-1] == "session_closed"
        assert await until_free(service) < FREED_WITHIN_S
        assert service.counters()["sessions_open"] == 0


async def test_a_diamond_with_a_failed_branch_fails_its_join_once_and_keeps_the_other_branch() -> None:
    engine = ScriptedConfig(faults=(ScriptedFault(kind="raise", marker="poison"),))
    async with running_service(engine) as service:
        sid = await open_session(service)
        await submit(
            service,
            sid,
            call("start {{out}}", "top"),
            call("poison {{x}} {{out}}", "left", x="$top"),
            call("{{x}} {{out}}", "right", x="$top"),
            call("{{l}} {{r}} {{out}}", "join", l="$left", r="$right"),
        )
        top, left, right, join = [await get(service, sid, n) for n in ("top", "left", "right", "join")]
        await service.delete_session(TENANT, sid)
        assert (top.state, right.state) == ("ready", "ready")
        assert left.error is not None
        assert join.error is not None
        assert (left.error.code, join.error.code) == ("attempts_exhausted", "upstream_failed")
        assert join.error.data is not None
        assert (join.error.data["root"], join.error.data["root_variable"]) == ("attempts_exhausted", "left")
