"""Every engine of the package keeps the contract, in this process and in one of its own."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from engine_contract import (
    BLOCK,
    EMOJI_ANSWER,
    EMOJI_MARK,
    EngineContract,
    EngineCoreContract,
    MakeEngine,
    Shape,
)

from parrot.engine.launch import start_here, start_in_process
from parrot.engine.scripted import ScriptedAnswer, ScriptedConfig
from parrot.engine.torch.config import TorchConfig
from parrot.ports.engine import Engine, StartEngine
from parrot.types.ids import EngineId

ENGINE_ID = EngineId("engine-0")


def scripted(shape: Shape) -> ScriptedConfig:
    return ScriptedConfig(
        answers=(ScriptedAnswer(pattern=EMOJI_MARK, answer=EMOJI_ANSWER),),
        block_tokens=BLOCK,
        num_blocks=shape.num_blocks,
        max_batch=shape.max_batch,
        step_tokens=shape.step_tokens,
        context_tokens=shape.context_tokens,
        decode_step_s=0.0005,
        prefill_tokens_per_s=50_000,
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("torch") is None:
        pytest.skip("torch is not installed")
    from parrot.engine.torch.init import init_model

    directory = tmp_path_factory.mktemp("model") / "tiny"
    init_model("tiny", directory)
    return directory


def torch_config(directory: Path, shape: Shape) -> TorchConfig:
    from parrot.engine.torch.init import list_presets

    preset = list_presets()["tiny"]
    head_size = preset.hidden_size // preset.num_heads
    block_bytes = preset.num_layers * 2 * preset.num_kv_heads * head_size * 4 * BLOCK
    return TorchConfig(
        model_dir=str(directory),
        device="cpu",
        dtype="float32",
        kv_bytes=shape.num_blocks * block_bytes,
        block_tokens=BLOCK,
        max_batch=shape.max_batch,
        step_tokens=shape.step_tokens,
        context_tokens=shape.context_tokens,
        num_threads=1,
    )


async def _start(start: StartEngine, shape: Shape) -> Engine:
    engine = await start(lambda _phase, _fraction: None)
    assert engine.info.num_blocks == shape.num_blocks
    return engine


class TestScriptedHere(EngineContract):
    @pytest.fixture
    def make_engine(self) -> MakeEngine:
        return lambda shape: _start(start_here(scripted(shape), ENGINE_ID), shape)


class TestScriptedInProcess(EngineContract):
    @pytest.fixture
    def make_engine(self) -> MakeEngine:
        return lambda shape: _start(start_in_process(scripted(shape), ENGINE_ID), shape)


class TestTorchHere(EngineContract):
    @pytest.fixture
    def make_engine(self, tiny_model: Path) -> MakeEngine:
        return lambda shape: _start(start_here(torch_config(tiny_model, shape), ENGINE_ID), shape)


class TestTorchInProcess(EngineCoreContract):
    @pytest.fixture
    def make_engine(self, tiny_model: Path) -> MakeEngine:
        return lambda shape: _start(start_in_process(torch_config(tiny_model, shape), ENGINE_ID), shape)
