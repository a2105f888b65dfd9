"""Every family gives what transformers gives: the same greedy tokens, and the same logits within a bound."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_greedy_equality import check, prompt, reference
from torch_driver import PLAIN, VARIANTS, StartDriver, Variant, write_tokenizer

from parrot.engine.torch.attention import ReferenceAttention
from parrot.engine.torch.kv_cache import KvCache, KvShape
from parrot.engine.torch.models.decoder import Decoder
from parrot.engine.torch.models.generic_check import check_decoder
from parrot.engine.torch.models.placement import Placement
from parrot.engine.torch.models.registry import choose_model
from parrot.engine.torch.step_input import QueryRows, StepInput
from parrot.errors import ConfigError

Dirs = Callable[[Variant], Path]

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
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


CPU = torch.device("cpu")
LOGIT_BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 0.3}
"""Largest error of any logit, in standard deviations of the logits: those of the same weights in float32."""

MIXTURE_SHARE = 0.75
"""In bfloat16 a mixture of experts may send a token to another expert, for the router's scores are rounded as
well; so many of the tokens are within the bound."""


def is_rounded_mixture(model: Variant) -> bool:
    has_experts = not {"num_local_experts", "n_routed_experts"}.isdisjoint(model.changes)
    return has_experts and model.dtype == torch.bfloat16


def place(dtype: torch.dtype, context_tokens: int = 256) -> Placement:
    return Placement(
        dtype=dtype, device=CPU, context_tokens=context_tokens, on_progress=lambda _fraction: None
    )


@torch.inference_mode()
def logits_of(decoder: Decoder, token_ids: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """All logits of one sequence, computed at once."""
    shape, count = decoder.shape, len(token_ids)
    kv_shape = KvShape(
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        block_tokens=count,
        dtype=dtype,
    )
    attention = ReferenceAttention(KvCache(kv_shape, 1, CPU), decoder.attention)
    places = torch.arange(count)
    step = StepInput(
        token_ids=torch.tensor(token_ids),
        positions=places,
        slots=places,
        rows=(QueryRows(first=0, num_rows=count, spans=(), own=((0, count),)),),
        logit_rows=places,
    )
    attention.begin(step)
    return decoder.forward(step.token_ids, step.positions, step.logit_rows, attention.attend).float()


IN_BFLOAT16 = {"mistral-window", "qwen2-bias", "qwen3-norms", "opt", "gpt2", "gemma2", "mixtral", "gpt-oss"}
EXACTNESS = [
    (model, dtype)
    for model in (*VARIANTS, *FAST, *GENERIC)
    for dtype in LOGIT_BOUNDS
    if dtype == torch.float32 or model.name in IN_BFLOAT16
]


@pytest.mark.parametrize(("model", "dtype"), EXACTNESS, ids=lambda v: getattr(v, "name", str(v)))
def test_logits_equal_those_of_transformers_within_the_bound(
    model: Variant, dtype: torch.dtype, model_dirs: Dirs
) -> None:
    mild = {} if dtype == torch.float32 else {"initializer_range": 0.1}
    model = replace(model, name=f"{model.name}-{dtype}", dtype=dtype, changes={**model.changes, **mild})
    directory = model_dirs(model)
    token_ids = prompt(60, seed=7)
    decoder = choose_model(directory).load(place(dtype))
    logits = logits_of(decoder, token_ids, dtype)
    with torch.no_grad():
        expected = reference(model, directory)(torch.tensor([token_ids])).logits[0]
    is_near = (logits - expected).abs().amax(dim=1) / expected.std() <= LOGIT_BOUNDS[dtype]
    assert float(is_near.float().mean()) >= (MIXTURE_SHARE if is_rounded_mixture(model) else 1)


@pytest.mark.parametrize("model", [*FAST, *GENERIC], ids=lambda v: v.name)
def test_the_number_of_parameters_is_counted_as_transformers_counts(model: Variant, model_dirs: Dirs) -> None:
    directory = model_dirs(model)
    decoder = choose_model(directory).load(place(torch.float32))
    assert decoder.num_parameters == reference(model, directory).num_parameters()


@pytest.mark.parametrize("model", [GENERIC[0], GENERIC[2]], ids=lambda v: v.name)
async def test_other_decoders_survive_preemption(
    model: Variant, model_dirs: Dirs, start: StartDriver
) -> None:
    directory = model_dirs(model)
    one = await start(directory, block_tokens=4)
    block_bytes = one.engine.info.block_bytes
    driver = await start(directory, block_tokens=4, kv_bytes=30 * block_bytes, step_tokens=16, max_batch=8)
    prompts = [prompt(10 + 3 * at, seed=40 + at) for at in range(6)]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(driver.generate(at, tokens, max_tokens=40, ignore_eos=True))
            for at, tokens in enumerate(prompts)
        ]
    assert driver.engine.load().num_preemptions > 0
    for tokens, task in zip(prompts, tasks, strict=True):
        check(model, directory, tokens, task.result().token_ids)


REFUSED = (
    (variant("bloom", "Bloom", n_head=4, n_layer=2), "by itself"),
    (variant("falcon-alibi", "Falcon", alibi=True), "by itself"),
    (variant("gpt-j", "GPTJ", n_embd=64, n_head=4, n_layer=2, n_positions=256, rotary_dim=8), "by itself"),
    (variant("mamba", "Mamba", state_size=4), "linear_attention"),
    (
        variant(
            "qwen3-next",
            "Qwen3Next",
            layer_types=["linear_attention", "full_attention"],
            num_experts=4,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=16,
            linear_value_head_dim=16,
        ),
        "linear_attention",
    ),
    (variant("bert", "Bert"), "not causal|not a function"),
)


@pytest.mark.parametrize(("model", "words"), REFUSED, ids=lambda v: getattr(v, "name", ""))
def test_a_model_whose_attention_is_not_ours_to_compute_is_refused(
    model: Variant, words: str, model_dirs: Dirs
) -> None:
    directory = model_dirs(model)
    with pytest.raises(ConfigError, match=words) as caught:
        choose_model(directory).load(place(torch.float32))
    assert caught.value.code == "bad_model"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "t5"}, "encoder with a decoder"),
        ({"model_type": "vit"}, "continues text"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "code.OwnConfig"}}, "never run"),
        ({"model_type": "gpt2", "quantization_config": {"bits": 4}}, "quantised"),
        ({"model_type": "gpt2"}, "neither model.safetensors"),
    ],
)
def test_a_directory_that_is_no_servable_decoder_is_bad_model(
    config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match=words) as caught:
        choose_model(tmp_path).load(place(torch.float32))
    assert caught.value.code == "bad_model"


def test_weights_of_another_family_are_refused(plain_dir: Path, tmp_path: Path) -> None:
    config = json.loads((plain_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "granite"}))
    (tmp_path / "model.safetensors").symlink_to(plain_dir / "model.safetensors")
    granite = choose_model(tmp_path)
    assert granite.shape.family == "granite"
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ConfigError, match="tensors"):
        choose_model(tmp_path).load(place(torch.float32))


def test_rotary_embeddings_that_change_with_length_are_kept_below_the_change(tmp_path: Path) -> None:
    factors = [1.0] * 8
    config = transformers.Phi3Config(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=256,
        original_max_position_embeddings=128,
        pad_token_id=1,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": factors,
            "long_factor": factors,
        },
    )
    config.save_pretrained(tmp_path)
    assert choose_model(tmp_path).shape.context_tokens == 128


def test_chunks_that_hide_tokens_unsaid_keep_contexts_below_their_size(model_dirs: Dirs) -> None:
    model = variant(
        "llama4",
        "Llama4Text",
        head_dim=16,
        attention_chunk_size=40,
        num_local_experts=2,
        intermediate_size_mlp=96,
        layer_types=["chunked_attention", "full_attention"],
    )
    directory = model_dirs(model)
    decoder = choose_model(directory).load(place(torch.float32))
    assert decoder.shape.context_tokens == 40
    token_ids = prompt(40, seed=7)
    with torch.no_grad():
        expected = reference(model, directory)(torch.tensor([token_ids])).logits[0]
    logits = logits_of(decoder, token_ids, torch.float32)
    assert float((logits - expected).abs().max() / expected.std()) <= LOGIT_BOUNDS[torch.float32]


def test_a_window_that_no_context_fills_is_no_window(model_dirs: Dirs) -> None:
    directory = model_dirs(FAST[3])
    assert FAST[3].name == "mistral-window"
    source = choose_model(directory)
    assert source.load(place(torch.float32, 256)).attention.windows == (24, 24)
    assert source.load(place(torch.float32, 24)).attention.windows == ()


def test_a_decoder_that_loses_positions_is_found_out(model_dirs: Dirs) -> None:
    directory = model_dirs(PLAIN)
    decoder = choose_model(directory).load(place(torch.float32))
    model = reference(PLAIN, directory)

    def own_logits(token_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(token_ids[None]).logits[0]
        return logits

    class Forgetful:
        shape = decoder.shape
        attention = decoder.attention
        num_parameters = decoder.num_parameters
        wrap_linears = decoder.wrap_linears

        def forward(
            self, token_ids: torch.Tensor, positions: torch.Tensor, logit_rows: torch.Tensor, attend: Any
        ) -> torch.Tensor:
            positions = torch.arange(len(positions))
            return decoder.forward(token_ids, positions, logit_rows, attend)

    settings = place(torch.float32)
    assert check_decoder(decoder, own_logits=own_logits, placement=settings) is None
    found = check_decoder(Forgetful(), own_logits=own_logits, placement=settings)
    assert found is not None
    assert "not a function of tokens, positions" in found


def test_transformers_is_not_imported_for_a_family_of_ours(plain_dir: Path) -> None:
    code = (
        "import sys; from parrot.engine.torch.config import TorchConfig;"
        "from parrot.engine.torch.startup import build_parts;"
        f"build_parts(TorchConfig(model_dir={str(plain_dir)!r}, kv_bytes=1 << 22), lambda *_: None);"
        "print('transformers' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
