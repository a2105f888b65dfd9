"""The soak finds nothing wrong with the engine, and finds what is made wrong."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from parrot.bench.engine.soak import SoakConfig, SoakReport, run_soak
from parrot.engine.torch.config import TorchConfig
from parrot.engine.torch.contexts import Context, ContextTree
from parrot.engine.torch.engine import TorchEngine
from parrot.engine.torch.init import init_model
from parrot.ports.clock import SystemClock
from parrot.ports.engine import GenerateChunk, GenerateRequest


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("soak") / "tiny"
    init_model("tiny", directory)
    return directory


async def soak(model_dir: Path, *, seconds: float, stall_s: float = 30.0) -> SoakReport:
    engine = TorchConfig(model_dir=str(model_dir), max_batch=16, step_tokens=128)
    config = SoakConfig(engine=engine, minutes=seconds / 60, round_s=5.0, stall_s=stall_s, seed=1)
    return await run_soak(config, clock=SystemClock(), tell=lambda _: None)


async def test_random_traffic_at_full_memory_leaks_and_stalls_nothing(model_dir: Path) -> None:
    report = await soak(model_dir, seconds=12)
    assert report.faults == []
    assert report.passed
    assert report.num_rounds >= 2
    assert report.load.num_preemptions > 0
    assert report.load.num_free_blocks == report.settings["num_blocks"]
    assert report.most_owned_blocks > 0.8 * report.load.num_free_blocks
    assert {"fill done", "generate done", "generate bounded done", "generate cancelled"} <= set(
        report.outcomes
    )


async def test_a_context_that_is_never_given_up_is_found(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = ContextTree.release
    forgotten: list[Context] = []

    def forgetful(tree: ContextTree, node: Context, *, retain: bool) -> None:
        if not forgotten and node.state == "live" and node.num_blocks:
            forgotten.append(node)
        else:
            release(tree, node, retain=retain)

    monkeypatch.setattr(ContextTree, "release", forgetful)
    report = await soak(model_dir, seconds=1)
    assert forgotten
    assert not report.passed
    assert "the engine keeps 1 contexts, and nobody uses one" in report.faults


async def test_an_engine_that_answers_no_more_is_found(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(_engine: TorchEngine, _request: GenerateRequest) -> AsyncGenerator[GenerateChunk, None]:
        await SystemClock().sleep(3600)
        yield GenerateChunk(text="", token_ids=())

    monkeypatch.setattr(TorchEngine, "generate", endless)
    report = await soak(model_dir, seconds=20, stall_s=1.0)
    assert not report.passed
    assert "none went on for 1 s" in report.faults[0]
    assert report.duration_s < 10
