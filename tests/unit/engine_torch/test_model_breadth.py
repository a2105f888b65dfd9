"""Every family gives what transformers gives: the same greedy tokens, and the same logits within a bound."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import transformers
from test_greedy_equality import check, prompt
from torch_driver import StartDriver, Variant

Dirs = Callable[[Variant], Path]

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHORT = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "initializer_range": 0.3}
WINDOWS = ["sliding_attention", "full_attention"]


def variant(name: str, family: str, **changes: Any) -> Variant:
    """A family by the name of its config's class."""
    config_class = getattr(transformers, f"{family}Config")
    model_class = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
    return Variant(name=name, config_class=config_class, model_class=model_class, changes=changes)


FAST = (
    variant("llama-yarn", "Llama", rope_parameters=YARN),
    variant(
        "llama-yarn-exact", "Llama", rope_parameters={**YARN, "truncate": False, "attention_factor": 0.9}
    ),
    variant(
        "llama-dynamic",
        "Llama",
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    ),
    variant("mistral-window", "Mistral", sliding_window=24),
    variant("mistral-one-token-window", "Mistral", sliding_window=1),
    variant("mistral-head32", "Mistral", head_dim=32, sliding_window=None),
    variant("qwen2-window", "Qwen2", use_sliding_window=True, sliding_window=20, max_window_layers=1),
    variant("qwen2-tied", "Qwen2", tie_word_embeddings=True),
    variant(
        "qwen3-window", "Qwen3", head_dim=16, use_sliding_window=True, sliding_window=20, layer_types=WINDOWS
    ),
    variant("qwen3-bias-yarn", "Qwen3", head_dim=16, attention_bias=True, rope_parameters=YARN),
    variant("opt", "OPT", ffn_dim=96, word_embed_proj_dim=64),
    variant("opt-norm-last-projected", "OPT", ffn_dim=96, word_embed_proj_dim=32, do_layer_norm_before=False),
    variant(
        "opt-untied-no-bias",
        "OPT",
        ffn_dim=96,
        word_embed_proj_dim=64,
        enable_bias=False,
        tie_word_embeddings=False,
    ),
)

GENERIC = (
    variant("gpt2", "GPT2", n_embd=64, n_head=4, n_layer=2, n_positions=256),
    variant("gpt-neox", "GPTNeoX", rotary_pct=0.25),
    variant(
        "gemma2",
        "Gemma2",
        head_dim=16,
        sliding_window=24,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=30.0,
        query_pre_attn_scalar=32,
    ),
    variant(
        "gemma3", "Gemma3Text", head_dim=16, sliding_window=24, layer_types=WINDOWS, query_pre_attn_scalar=32
    ),
    variant("phi3", "Phi3", sliding_window=24, pad_token_id=1),
    variant("phi", "Phi", partial_rotary_factor=0.5),
    variant("stablelm", "StableLm"),
    variant("granite", "Granite", attention_multiplier=0.2, logits_scaling=2.0, residual_multiplier=0.5),
    variant("cohere", "Cohere"),
    variant("olmo2", "Olmo2"),
    variant("starcoder2", "Starcoder2", sliding_window=24),
    variant("mixtral", "Mixtral", num_local_experts=4, sliding_window=24),
    variant("gpt-bigcode", "GPTBigCode", n_embd=64, n_head=4, n_layer=2, n_positions=256),
    variant("llama-gelu", "Llama", hidden_act="gelu"),
    variant("gpt-oss", "GptOss", head_dim=16, sliding_window=24, num_local_experts=4, layer_types=WINDOWS),
    variant(
        "deepseek",
        "DeepseekV3",
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        num_key_value_heads=4,
    ),
)
FORKS: Sequence[tuple[int, int]] = ((90, 3), (90, 1), (50, 30), (26, 5), (1, 2))
"""Where forks leave a prefix of 90 tokens, and how many tokens they add."""


@pytest.mark.parametrize("attention", ["reference", "per-request", "shared"])
@pytest.mark.parametrize("model", FAST, ids=lambda v: v.name)
async def test_fast_families_equal_transformers_forked_and_chunked(
    model: Variant, attention: str, model_dirs: Dirs, start: StartDriver
) -> None:
    directory = model_dirs(model)
    driver = await start(directory, attention=attention, step_tokens=37, max_batch=8, block_tokens=4)
    assert "transformers" not in driver.engine.info.description
    await run_forks(driver, model, directory)


@pytest.mark.parametrize("model", GENERIC, ids=lambda v: v.name)
async def test_other_decoders_equal_transformers_forked_and_chunked(
    model: Variant, model_dirs: Dirs, start: StartDriver
) -> None:
    directory = model_dirs(model)
    driver = await start(directory, step_tokens=37, max_batch=8, block_tokens=4)
    assert "transformers' own layers" in driver.engine.info.description
    await run_forks(driver, model, directory)


async def run_forks(driver: Any, model: Variant, directory: Path) -> None:
    root = prompt(90, seed=2)
    await driver.fill(1, root)
    suffixes = [prompt(count, seed=10 + at) for at, (_, count) in enumerate(FORKS)]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                driver.generate(10 + at, suffixes[at], (1, cut), max_tokens=12, ignore_eos=True)
            )
            for at, (cut, _) in enumerate(FORKS)
        ]
    for (cut, _), suffix, task in zip(FORKS, suffixes, tasks, strict=True):
        check(model, directory, root[:cut] + suffix, task.result().token_ids)
