"""The torch engine on a CUDA device gives the tokens that it gives on the CPU."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from parrot.engine.torch.config import TorchConfig
from parrot.engine.torch.engine import TorchEngine
from parrot.engine.torch.init import init_model
from parrot.ports.engine import ContextRef, FillRequest, GenerateRequest
from parrot.types.ids import ContextId, EngineId, RequestId
from parrot.types.sampling import Sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device at hand"),
]

NUM_FORKS = 6


async def forked_outputs(model_dir: Path, **settings: Any) -> list[list[int]]:
    """Tokens of several forks of one prefix, decoded together."""
    config = TorchConfig(model_dir=str(model_dir), dtype="float32", kv_bytes=1 << 26, **settings)
    engine = await TorchEngine.start(config, engine_id=EngineId("e"), progress=lambda _p, _f: None)

    async def one(number: int) -> list[int]:
        request = GenerateRequest(
            request_id=RequestId(f"g{number}"),
            context_id=ContextId(10 + number),
            token_ids=(30 + number, 40, 50),
            parent=ContextRef(context_id=ContextId(1), num_tokens=90),
            sampling=Sampling(max_tokens=24, ignore_eos=True),
        )
        chunks = [chunk async for chunk in engine.generate(request)]
        return [token_id for chunk in chunks for token_id in chunk.token_ids]

    prefix = tuple(range(20, 120))
    await engine.fill(FillRequest(request_id=RequestId("f"), context_id=ContextId(1), token_ids=prefix))
    outputs = await asyncio.gather(*map(one, range(NUM_FORKS)))
    await engine.close()
    return outputs


@pytest.mark.parametrize("attention", ["reference", "per-request", "shared"])
async def test_forks_on_cuda_give_the_tokens_of_the_cpu(attention: str, tmp_path: Path) -> None:
    init_model("tiny", tmp_path)
    expected = await forked_outputs(tmp_path, device="cpu", attention="reference")
    assert await forked_outputs(tmp_path, device="cuda", attention=attention) == expected


async def test_replayed_decode_steps_give_the_tokens_of_the_cpu(tmp_path: Path) -> None:
    init_model("tiny", tmp_path)
    expected = await forked_outputs(tmp_path, device="cpu", attention="reference")
    assert await forked_outputs(tmp_path, device="cuda", cuda_graphs=True) == expected
