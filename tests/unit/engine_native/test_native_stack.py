"""All layers in one call give what they give one by one, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from parrot.bench.engine.driver import started
from parrot.engine.native.kernels import load_native
from parrot.engine.native.library import Isa
from parrot.engine.torch.config import TorchConfig
from parrot.engine.torch.init import init_model
from parrot.engine.torch.kv_cache import KvShape
from parrot.engine.torch.models.llama import LlamaModel
from parrot.engine.torch.models.placement import Placement
from parrot.engine.torch.models.registry import choose_model
from parrot.engine.torch.native_attention import NativeAttention
from parrot.engine.torch.native_cache import NativeKvCache
from parrot.engine.torch.paths import DEFAULT_THREADS
from parrot.engine.torch.runner import Runner
from parrot.engine.torch.step_input import QueryRows, StepInput
from parrot.engine.torch.timing import StepTimes
from parrot.ports.clock import SystemClock

NUM_BLOCKS = 8


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("stack") / "small"
    init_model("small", directory)
    return directory


@pytest.fixture(params=["avx512-bf16", "amx-bf16"])
def isa(request: pytest.FixtureRequest) -> Isa:
    found: Isa = request.param
    if load_native(found) is None:
        pytest.skip(f"no native kernels for {found} here")
    return found


def load(model_dir: Path, isa: Isa) -> tuple[LlamaModel, NativeAttention]:
    kernels = load_native(isa, num_threads=2)
    assert kernels is not None
    placement = Placement(
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        context_tokens=256,
        on_progress=lambda _: None,
        kernels=kernels,
    )
    model = choose_model(model_dir).load(placement)
    assert isinstance(model, LlamaModel)
    shape = model.shape
    kv_shape = KvShape(
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        block_tokens=16,
        dtype=torch.bfloat16,
    )
    cache = NativeKvCache(kv_shape, NUM_BLOCKS)
    return model, NativeAttention(kernels, cache, num_heads=shape.num_heads)


def run(model: LlamaModel, attention: NativeAttention, first: int, num_rows: int) -> torch.Tensor:
    """The logits of each of some consecutive tokens of one context."""
    numbers = torch.arange(first, first + num_rows)
    rows = QueryRows(first=0, num_rows=num_rows, spans=(), own=((first, num_rows),))
    step = StepInput(
        token_ids=numbers * 37 % model.shape.vocab_size,
        positions=numbers,
        slots=numbers.clone(),
        rows=(rows,),
        logit_rows=torch.arange(num_rows),
    )
    attention.begin(step)
    return model.forward(step.token_ids, step.positions, step.logit_rows, attention.attend)


@torch.inference_mode()
def test_the_fused_layers_equal_the_layers_one_by_one(small_dir: Path, isa: Isa) -> None:
    plain, fused = load(small_dir, isa), load(small_dir, isa)
    fused[0].fuse(fused[1], None)
    for first, num_rows in ((0, 1), (0, 40), (40, 3), (0, 32), (0, 33)):
        assert torch.equal(run(*plain, first, num_rows), run(*fused, first, num_rows))


@torch.inference_mode()
def test_the_fused_layers_note_where_their_time_goes(small_dir: Path, isa: Isa) -> None:
    model, attention = load(small_dir, isa)
    times = StepTimes(SystemClock())
    model.fuse(attention, times)
    times.begin(20)
    run(model, attention, 0, 20)
    step = times.take()[0]
    assert step.matrix_s > 0
    assert step.attention_s > 0


async def test_torch_keeps_no_threads_beside_the_fused_layers(
    small_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = load_native()
    if kernels is None or not kernels.has_linear:
        pytest.skip("no native matrix products here")
    seen: list[int] = []
    run_step = Runner.run

    def watched(self: Runner, *args: Any) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return run_step(self, *args)

    monkeypatch.setattr(Runner, "run", watched)
    config = TorchConfig(model_dir=str(small_dir), num_threads=2, kv_bytes=1 << 24)
    async with started(config, clock=SystemClock(), seed=0) as driver:
        await driver.fill(40)
    assert seen == [1]


async def test_a_second_engine_in_the_process_has_as_many_threads_as_the_first(small_dir: Path) -> None:
    config = TorchConfig(model_dir=str(small_dir), kv_bytes=1 << 24)
    found = []
    for _ in range(2):
        async with started(config, clock=SystemClock(), seed=0) as driver:
            await driver.fill(40)
            assert driver.parts.kernels is not None
            found.append((driver.parts.kernels.num_threads, driver.engine.info.description))
    assert found[0] == found[1]
    assert found[0][0] == DEFAULT_THREADS
