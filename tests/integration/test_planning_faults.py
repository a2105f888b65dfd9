"""Filling ahead and telling what contexts are worth are extras: a fault in one ends nothing else."""

import asyncio

import pytest
from core_harness import TENANT, call, get, open_session, running_service, submit

from parrot.core.executor.ahead import Ahead
from parrot.core.executor.retention import Retention
from parrot.wire.functions import FunctionSpec

INSTRUCTION = "an instruction that is long enough to be filled ahead of its input " * 3


def broken(*_: object) -> object:
    raise RuntimeError("a fault of ours")


async def test_a_fault_while_filling_ahead_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_service() as service:
        monkeypatch.setattr(Ahead, "_note", broken)
        sid = await open_session(service)
        await submit(service, sid, call("Say {{out}}", "a"), call(INSTRUCTION + "{{a}}{{out}}", "b", a="$a"))
        assert (await get(service, sid, "b")).state == "ready"
        assert service.counters()["planning_faults"] > 0
        assert service.health().status == "ok"
    assert "filling ahead failed" in caplog.text


async def test_a_fault_while_telling_worth_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_service() as service:
        monkeypatch.setattr(Retention, "_changes", broken)
        sid = await open_session(service)
        await submit(service, sid, call("Say {{out}}", "a"), call("Go on: {{a}}{{out}}", "b", a="$a"))
        assert (await get(service, sid, "b")).state == "ready"
        assert service.counters()["planning_faults"] > 0
        assert service.health().status == "ok"
    assert "telling what contexts are worth failed" in caplog.text


async def test_a_fault_while_a_function_is_kept_warm_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_service() as service:
        monkeypatch.setattr(Ahead, "_note", broken)
        template = {"template": INSTRUCTION + "{{x}} {{out}}", "outputs": {"out": {}}, "warm": True}
        await service.functions.register(TENANT, "rules", FunctionSpec.model_validate(template))
        async with asyncio.timeout(10):
            while not service.counters()["planning_faults"]:
                await asyncio.sleep(0.01)
        assert service.health().status == "ok"
        sid = await open_session(service)
        await submit(service, sid, call("Say {{out}}", "a"))
        assert (await get(service, sid, "a")).state == "ready"
    assert "keeping a function warm failed" in caplog.text
