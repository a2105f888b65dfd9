"""What is stored, and for how long a call may stand still, is bounded."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core_harness import TENANT, call, get, open_session, running_service, submit

from parrot.core.limits import Limits
from parrot.engine.scripted_config import ScriptedConfig, ScriptedFault
from parrot.errors import GoneError, OverLimitError, ParrotError, StoreError
from parrot.ports.store import StoreUsage
from parrot.store import MemoryStore, StoreConfig, open_store
from parrot.types.ids import TenantId
from parrot.wire.requests import SessionCreate, SetVariable

PATIENCE_S = 30.0
OTHER = TenantId("other")


class MeasuredStore(MemoryStore):
    """A store that says what it is told to say of its disk."""

    free_bytes = 1 << 40
    total_bytes = 1 << 41

    async def usage(self) -> StoreUsage:
        return StoreUsage(bytes_of={}, free_bytes=self.free_bytes, total_bytes=self.total_bytes)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


async def refused(work: Any) -> ParrotError:
    with pytest.raises(ParrotError) as caught:
        await work
    return caught.value


async def test_before_the_disk_is_full_nothing_is_accepted_and_then_all_is_again() -> None:
    store = MeasuredStore()
    limits = Limits(min_free_disk_bytes=1 << 30)
    async with running_service(ScriptedConfig(), store=store, limits=limits) as service:
        sid = await open_session(service)
        await submit(service, sid, call("Say {{out}}", "before"))
        store.free_bytes = (1 << 30) - 1
        await until(lambda: service.health().status == "unavailable")
        errors = [
            await refused(submit(service, sid, call("Say {{out}}", "during"))),
            await refused(service.open_session(TENANT, SessionCreate())),
            await refused(service.set_variable(TENANT, sid, "x", SetVariable(value="v"))),
        ]
        assert {(type(error), error.code) for error in errors} == {(StoreError, "store_full")}
        assert all("retry_after_s" in error.data for error in errors)
        assert (await get(service, sid, "before")).state == "ready"
        store.free_bytes = 1 << 40
        await until(lambda: service.health().status == "ok")
        await submit(service, sid, call("Say {{out}}", "after"))
        assert (await get(service, sid, "after")).state == "ready"


async def test_of_a_small_disk_a_twentieth_is_kept_free() -> None:
    store = MeasuredStore()
    store.total_bytes, store.free_bytes = 8 << 20, 1 << 20
    async with running_service(ScriptedConfig(), store=store) as service:
        sid = await open_session(service)
        store.free_bytes = (8 << 20) // 20 - 1
        await until(lambda: service.health().status == "unavailable")
        assert (await refused(service.open_session(TENANT, SessionCreate()))).code == "store_full"
        await service.delete_session(TENANT, sid)


async def test_a_tenant_that_stores_as_much_as_it_may_stores_no_more_and_others_do(tmp_path: Path) -> None:
    store = await open_store(StoreConfig(path=tmp_path / "parrot.db"))
    limits = Limits(max_stored_bytes=20_000)
    async with running_service(ScriptedConfig(), store=store, limits=limits) as service:
        service.set_tenants({}, metered=True)
        sid = await open_session(service)
        for number in range(3):
            await service.set_variable(TENANT, sid, f"x{number}", SetVariable(value="v" * 8_000))
        errors = [
            await refused(service.set_variable(TENANT, sid, "more", SetVariable(value="v"))),
            await refused(submit(service, sid, call("Say {{out}}", "more"))),
            await refused(service.open_session(TENANT, SessionCreate())),
        ]
        assert {type(error) for error in errors} == {OverLimitError}
        assert {error.data["limit"] for error in errors} == {"max_stored_bytes"}
        assert all("retry_after_s" in error.data for error in errors)
        assert (await service.open_session(OTHER, SessionCreate())).state == "open"


async def test_a_session_that_was_deleted_is_gone_after_a_restart_too(tmp_path: Path) -> None:
    durable = StoreConfig(path=tmp_path / "parrot.db")
    async with running_service(ScriptedConfig(), store=await open_store(durable)) as service:
        sid = await open_session(service)
        await service.delete_session(TENANT, sid)
        with pytest.raises(GoneError) as before:
            service.session(TENANT, sid)
    async with running_service(ScriptedConfig(), store=await open_store(durable)) as service:
        with pytest.raises(GoneError) as after:
            service.session(TENANT, sid)
        with pytest.raises(ParrotError) as unknown:
            service.session(OTHER, sid)
    assert (before.value.code, before.value.message) == (after.value.code, after.value.message)
    assert unknown.value.code == "not_found"


async def test_a_call_that_waits_for_an_engine_for_too_long_fails() -> None:
    engine = ScriptedConfig(decode_step_s=0.05, tokens_per_step=1, max_batch=1)
    limits = Limits(queue_timeout_s=0.3)
    async with running_service(engine, limits=limits) as service:
        service.set_tenants({}, metered=True)
        sid = await open_session(service)
        calls = [call(f"Say {number} {{{{out}}}}", f"v{number}", max_tokens=40) for number in range(40)]
        await submit(service, sid, *calls)
        last = await get(service, sid, "v39")
    assert last.error is not None
    assert last.error.code == "deadline"
    assert "waited" in last.error.message


async def test_a_call_that_an_engine_has_for_too_long_fails_and_leaves_it_to_others() -> None:
    engine = ScriptedConfig(decode_step_s=0.05, tokens_per_step=1, max_batch=1)
    async with running_service(engine, limits=Limits(execution_timeout_s=0.5)) as service:
        sid = await open_session(service)
        await submit(service, sid, call("Say {{out}}", "long", max_tokens=2000))
        long = await get(service, sid, "long")
        await until(lambda: service.counters()["calls_running"] == 0)
    assert long.error is not None
    assert long.error.code == "deadline"
    assert "an engine had the call" in long.error.message


@pytest.mark.parametrize(
    ("after_tokens", "limits"),
    [
        (0, Limits(first_token_timeout_s=0.3, max_attempts=50)),
        (3, Limits(next_token_timeout_s=0.3, max_attempts=50)),
    ],
    ids=["first", "next"],
)
async def test_an_attempt_without_a_token_for_too_long_is_tried_again(
    after_tokens: int, limits: Limits
) -> None:
    fault = ScriptedFault(kind="slow", marker="sticky", after_tokens=after_tokens, times=1, delay_s=2.0)
    engine = ScriptedConfig(decode_step_s=0.01, tokens_per_step=1, faults=(fault,))
    async with running_service(engine, limits=limits) as service:
        sid = await open_session(service)
        await submit(service, sid, call("a sticky one {{out}}", "v", max_tokens=8))
        view = await get(service, sid, "v")
        (told,) = service.graph(TENANT, sid).calls
    assert view.state == "ready"
    assert told.attempt >= 2


async def test_the_limits_are_told_by_name() -> None:
    async with running_service(ScriptedConfig()) as service:
        told = service.limits_view()
    assert told["min_free_disk_bytes"] == 512 << 20
    assert {"max_stored_bytes", "max_kv_share", "queue_timeout_s", "execution_timeout_s"} <= told.keys()
    assert {"first_token_timeout_s", "next_token_timeout_s"} <= told.keys()
