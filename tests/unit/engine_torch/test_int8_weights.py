"""Weights in int8: what the engine then says is what the model with its weights rounded so says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_driver import PLAIN, VARIANTS, StartDriver, Variant

from parrot.engine.native.kernels import load_native
from parrot.engine.torch.tokenizer import load_tokenizer
from parrot.errors import ConfigError

Dirs = Callable[[Variant], Path]

BF16 = [variant for variant in VARIANTS if variant.dtype == torch.bfloat16]
BF16_BOUND = 0.06
"""As where weights are the model's own: outputs and activations are rounded to bfloat16."""

kernels = load_native()
needs_products = pytest.mark.skipif(
    kernels is None or not kernels.has_linear, reason="no native matrix products here"
)


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """To 1/127 of each output's largest weight."""
    scales = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / scales).round() * scales


def reference(variant: Variant, directory: Path) -> Any:
    model = variant.model_class.from_pretrained(directory, dtype=torch.float32).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            # A head may be the embeddings, which stay what they are.
            module.weight = torch.nn.Parameter(rounded(module.weight.detach()))
    return model


@needs_products
@pytest.mark.parametrize("variant", BF16, ids=lambda v: v.name)
async def test_tokens_are_those_of_the_model_with_rounded_weights(
    variant: Variant, model_dirs: Dirs, start: StartDriver
) -> None:
    directory = model_dirs(variant)
    driver = await start(directory, weights="int8")
    assert "int8" in driver.engine.info.description
    generator = torch.Generator().manual_seed(1)
    # Of 70 tokens a step has blocks of several sizes; then one row at a time.
    tokens = [int(i) for i in torch.randint(5, 390, (70,), generator=generator)]
    output = (await driver.generate(1, tokens, max_tokens=24, ignore_eos=True)).token_ids
    with torch.no_grad():
        logits = reference(variant, directory)(torch.tensor([[*tokens, *output]])).logits[0, 69:-1].float()
    logits[:, 2] = float("-inf")
    log_probabilities = logits[:, : load_tokenizer(str(directory)).vocab_size].log_softmax(dim=1)
    chosen = log_probabilities.gather(1, torch.tensor(output)[:, None])[:, 0]
    assert len(output) == 24
    assert float((log_probabilities.amax(dim=1) - chosen).max()) <= BF16_BOUND


@needs_products
async def test_engines_with_other_weights_do_not_pass_for_one_another(
    model_dirs: Dirs, start: StartDriver
) -> None:
    directory = model_dirs(BF16[0])
    hashes = {
        (await start(directory, weights=weights)).engine.info.model_hash for weights in ("model", "int8")
    }
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("variant", "settings"),
    [(PLAIN, {}), (BF16[0], {"kernels": "torch"}), (BF16[0], {"dtype": "float32"})],
    ids=["model in float32", "torch kernels", "float32 asked for"],
)
async def test_where_there_is_no_such_product_it_is_refused(
    variant: Variant, settings: dict[str, str], model_dirs: Dirs, start: StartDriver
) -> None:
    with pytest.raises(ConfigError, match="int8") as caught:
        await start(model_dirs(variant), weights="int8", **settings)
    assert caught.value.param == "engine.weights"
