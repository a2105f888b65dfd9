"""Cancelling a branch, or missing a deadline, gives the KV memory of a real engine back in seconds."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from core_harness import TENANT, call, get, open_session, running_service, submit

from parrot.core.service import Service
from parrot.core.service_config import ServiceConfig
from parrot.wire.answers import EngineView
from parrot.wire.requests import CancelRequest

torch = pytest.importorskip("torch", reason="the torch engine is not installed")

from parrot.engine.torch.config import TorchConfig  # noqa: E402
from parrot.engine.torch.init import init_model  # noqa: E402

FREED_WITHIN_S = 15.0
"""Two seconds are promised; a machine with other work gets more."""
LONG = 1500
RULES = "You are a careful member of the team and follow every one of its many rules. " * 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    init_model("tiny", directory)
    return directory


@pytest.fixture
async def service(model: Path) -> AsyncIterator[Service]:
    """A service on one engine with that model."""
    config = ServiceConfig(restart_delay_s=0.01, sweep_interval_s=0.1)
    async with running_service(
        TorchConfig(model_dir=str(model), dtype="float32", kv_bytes=1 << 28), config=config
    ) as running:
        yield running


async def until_blocks(service: Service, *, at_most: int | None = None, at_least: int = 0) -> EngineView:
    """The engine, as soon as it owns so many blocks."""
    async with asyncio.timeout(30):
        while True:
            (engine,) = service.engines().engines
            if engine.num_owned_blocks >= at_least and (
                at_most is None or engine.num_owned_blocks <= at_most
            ):
                return engine
            await asyncio.sleep(0.01)


async def test_a_cancelled_branch_gives_its_memory_back_and_the_other_runs_on(service: Service) -> None:
    sid = await open_session(service)
    lefts = [call(f"Left {i} {RULES * 12}{{{{out}}}}", f"left{i}", max_tokens=LONG) for i in range(3)]
    after = call("{{x}} and then {{out}}", "after_left", x="$left0", max_tokens=LONG)
    await submit(service, sid, *lefts, after, call(f"Right {RULES}{{{{out}}}}", "right", max_tokens=400))
    before = await until_blocks(service, at_least=100)
    began_s = time.monotonic()
    branch = CancelRequest(variables=["left0", "left1", "left2"])
    cancelled = (await service.cancel(TENANT, sid, branch)).cancelled
    after_cancel = await until_blocks(service, at_most=40)
    assert time.monotonic() - began_s < FREED_WITHIN_S
    assert len(cancelled) == 4
    assert (await get(service, sid, "right", 30)).state == "ready"
    assert before.num_owned_blocks > after_cancel.num_owned_blocks
    engine = await until_blocks(service, at_most=0)
    assert engine.num_cached_blocks + engine.num_free_blocks == engine.num_blocks


async def test_a_cancelled_session_gives_all_its_memory_back(service: Service) -> None:
    sid = await open_session(service)
    await submit(
        service, sid, *(call(f"{RULES} {i} {{{{out}}}}", f"v{i}", max_tokens=LONG) for i in range(4))
    )
    before = await until_blocks(service, at_least=8)
    began_s = time.monotonic()
    await service.cancel(TENANT, sid, CancelRequest())
    after = await until_blocks(service, at_most=0)
    assert time.monotonic() - began_s < FREED_WITHIN_S
    assert before.num_owned_blocks > after.num_owned_blocks == 0
    assert {node.state for node in service.graph(TENANT, sid).calls} == {"cancelled"}


async def test_a_session_past_its_deadline_gives_its_memory_back(service: Service) -> None:
    sid = await open_session(service, deadline_s=0.5)
    await submit(service, sid, call(RULES + "{{out}}", "v", max_tokens=LONG))
    await until_blocks(service, at_least=1)
    value = await get(service, sid, "v", 30)
    began_s = time.monotonic()
    await until_blocks(service, at_most=0)
    assert time.monotonic() - began_s < FREED_WITHIN_S
    assert value.error is not None
    assert value.error.code == "deadline"
