"""A measurement that is stopped keeps what it has."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from parrot.bench.migration.suite import MigrationPlan, MigrationRequest, settings_of
from parrot.bench.processes import keeping
from parrot.config import load_settings
from parrot.engine.torch.config import TorchConfig
from parrot.errors import UnreachableError


async def measured(results: Sequence[object], told: list[str]) -> bool:
    with keeping(results, told.append) as interruption:
        await asyncio.Event().wait()
    await asyncio.sleep(0)
    return interruption.happened


async def test_what_was_measured_before_an_interruption_is_kept() -> None:
    told: list[str] = []
    task = asyncio.create_task(measured(["one"], told))
    await asyncio.sleep(0)
    task.cancel()
    assert await task
    assert told == ["interrupted; what was measured so far is kept"]


async def test_without_a_result_an_interruption_ends_the_measurement() -> None:
    told: list[str] = []
    task = asyncio.create_task(measured([], told))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == []


def fail() -> None:
    raise UnreachableError("no completion", code="bad_answer")


async def test_what_was_measured_before_a_server_failed_is_kept() -> None:
    told: list[str] = []
    with keeping(["one"], told.append) as interruption:
        fail()
    assert interruption.happened
    assert told == ["no completion [bad_answer]; what was measured so far is kept"]


async def test_without_a_result_a_server_that_fails_fails_the_measurement() -> None:
    with pytest.raises(UnreachableError), keeping([], lambda _: None):
        fail()


def test_a_model_may_lie_in_a_directory_of_any_name(tmp_path: Path) -> None:
    model = tmp_path / 'a "model"\\n'
    model.mkdir()
    request = MigrationRequest(plan=MigrationPlan(), engine="torch", model=model, clients=None)
    file = tmp_path / "bench.toml"
    file.write_text(settings_of(request), encoding="utf-8")
    (engine,) = load_settings(files=[file]).settings.engines
    assert isinstance(engine.config, TorchConfig)
    assert engine.config.model_dir == str(model)
