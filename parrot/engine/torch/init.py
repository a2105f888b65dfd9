"""Random-weight models in Hugging Face format: a real model's shape, files and speed, without its knowledge.

A directory written here loads in `transformers` and in Parrot's own engine:

    config.json  generation_config.json  model.safetensors
    tokenizer.json  tokenizer_config.json  special_tokens_map.json

The tokenizer is a byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2) trained on Python's own
documentation and sources, which every machine has. The same preset and seed give the same bytes on the same
machine.
"""

import importlib
import json
import math
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parrot.errors import ConfigError
from parrot.ports.engine import Progress

if TYPE_CHECKING:
    import torch

END_OF_TEXT = "<|endoftext|>"
MESSAGE_START = "<|im_start|>"
MESSAGE_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, MESSAGE_START, MESSAGE_END)
"""In the order of their ids, from 0."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

LOGIT_STD = 2.5
"""Spread of a random model's logits: flat enough that sampling varies, peaked enough that `min_p` cuts."""
ATTENTION_GAIN = 2.0
"""Query and key weights are this much larger than 1/sqrt(fan-in), so that attention is not near uniform: what
comes next then depends on single earlier tokens, and greedy text does not fall into one repeated token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The shape of a model of the Llama family."""

    description: str
    """One line for people."""
    hidden_size: int
    """Width of the residual stream."""
    num_layers: int
    """Transformer blocks."""
    num_heads: int
    """Query heads; a head is `hidden_size / num_heads` wide."""
    num_kv_heads: int
    """Key and value heads (grouped-query attention)."""
    mlp_size: int
    """Width of the gated MLP."""
    vocab_size: int
    """Tokens, special tokens included."""
    tied: bool
    """The output layer is the embedding."""
    dtype: str
    """Weights: `float32` or `bfloat16`."""
    window: int = 8192
    """Longest context in tokens."""
    corpus_bytes: int = 4 << 20
    """At most so much text trains the tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """What was written."""

    preset: str
    directory: Path
    num_parameters: int
    num_bytes: int
    """Size of all files together."""
    vocab_size: int
    window: int
    dtype: str


_PRESETS = {
    "tiny": Preset(
        description="1.3 M parameters, float32; for tests",
        hidden_size=128,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        mlp_size=384,
        vocab_size=2000,
        tied=False,
        dtype="float32",
        corpus_bytes=1 << 20,
    ),
    "small": Preset(
        description="16 M parameters, bfloat16; quick on a CPU, for demonstrations",
        hidden_size=384,
        num_layers=8,
        num_heads=6,
        num_kv_heads=2,
        mlp_size=1024,
        vocab_size=8000,
        tied=True,
        dtype="bfloat16",
        corpus_bytes=3 << 20,
    ),
    "bench-115m": Preset(
        description="115 M parameters, bfloat16; the model of all measurements",
        hidden_size=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        mlp_size=1536,
        vocab_size=16_000,
        tied=True,
        dtype="bfloat16",
    ),
}


def list_presets() -> dict[str, Preset]:
    """The presets by name."""
    return dict(_PRESETS)


def init_model(
    preset: str, directory: Path, *, seed: int = 0, progress: Progress | None = None
) -> ModelSummary:
    """Write a random model into `directory`, which is created; it appears complete or not at all.

    Raises:
        ConfigError: `bad_config` (no such preset, or `directory` is not empty), `missing_extra` (torch,
            tokenizers or safetensors is not installed), `bad_model` (too little text on this machine).
    """
    shape = _PRESETS.get(preset)
    if shape is None:
        raise ConfigError(f"no preset {preset!r}; there are: {', '.join(_PRESETS)}", param="preset")
    _require_extra()
    directory = directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory} exists and is not an empty directory", param="directory")
    tell = progress or (lambda _phase, _done: None)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".parrot-init-", dir=directory.parent) as scratch:
            target = Path(scratch) / "model"
            target.mkdir()
            tell("training the tokenizer", None)
            _write_tokenizer(shape, target)
            num_parameters = _write_weights(shape, target, seed, tell)
            _write_configs(shape, target)
            num_bytes = sum(file.stat().st_size for file in target.iterdir())
            target.rename(directory)
    except OSError as error:
        raise ConfigError(
            f"cannot write to {directory}: {error.strerror or error}", param="directory"
        ) from error
    return ModelSummary(
        preset=preset,
        directory=directory,
        num_parameters=num_parameters,
        num_bytes=num_bytes,
        vocab_size=shape.vocab_size,
        window=shape.window,
        dtype=shape.dtype,
    )


def _require_extra() -> None:
    for name in ("torch", "tokenizers", "safetensors.torch"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f'{name.partition(".")[0]} is not installed: pip install "parrot-llm[engine]"',
                code="missing_extra",
            ) from error


def _corpus(max_bytes: int) -> Iterator[str]:
    """Python's documentation topics, then the standard library's sources by name, `max_bytes` in all."""
    library = Path(sysconfig.get_paths()["stdlib"])
    left = max_bytes
    for file in [library / "pydoc_data" / "topics.py", *sorted(library.glob("[a-z]*.py"))]:
        if left <= 0 or not file.is_file():
            continue
        text = file.read_bytes()[:left].decode(errors="replace")
        left -= file.stat().st_size
        if file.name == "topics.py":
            text = text.replace("\\n", "\n")
        yield from text.splitlines(keepends=True)


def _write_tokenizer(shape: Preset, directory: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(shape.corpus_bytes), trainer)
    if tokenizer.get_vocab_size() != shape.vocab_size:
        raise ConfigError(
            f"the text on this machine gives {tokenizer.get_vocab_size()} tokens, not {shape.vocab_size}: "
            "Python's standard library is here without its sources",
            code="bad_model",
        )
    tokenizer.save(str(directory / "tokenizer.json"))


def _weights(shape: Preset, seed: int) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Name and value of each tensor, one at a time.

    Matrices have a standard deviation of `gain / sqrt(fan_in)`, so that each block adds about as much to the
    residual stream as it reads; with a common smaller one the last token's own embedding would win, and a
    tied model would repeat it for ever.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if shape.dtype == "bfloat16" else torch.float32
    hidden = shape.hidden_size
    kv_size = shape.num_kv_heads * (hidden // shape.num_heads)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> torch.Tensor:
        values = torch.randn(rows, columns, generator=generator)
        return (values * (gain / math.sqrt(columns))).to(dtype)

    yield "model.embed_tokens.weight", matrix(shape.vocab_size, hidden, LOGIT_STD)
    for layer in range(shape.num_layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", torch.ones(hidden, dtype=dtype)
        yield f"{prefix}.self_attn.q_proj.weight", matrix(hidden, hidden, ATTENTION_GAIN)
        yield f"{prefix}.self_attn.k_proj.weight", matrix(kv_size, hidden, ATTENTION_GAIN)
        yield f"{prefix}.self_attn.v_proj.weight", matrix(kv_size, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", matrix(hidden, hidden)
        yield f"{prefix}.post_attention_layernorm.weight", torch.ones(hidden, dtype=dtype)
        yield f"{prefix}.mlp.gate_proj.weight", matrix(shape.mlp_size, hidden)
        yield f"{prefix}.mlp.up_proj.weight", matrix(shape.mlp_size, hidden)
        yield f"{prefix}.mlp.down_proj.weight", matrix(hidden, shape.mlp_size)
    yield "model.norm.weight", torch.ones(hidden, dtype=dtype)
    if not shape.tied:
        yield "lm_head.weight", matrix(shape.vocab_size, hidden, LOGIT_STD)


def _write_weights(shape: Preset, directory: Path, seed: int, tell: Progress) -> int:
    from safetensors.torch import save_file

    num_tensors = 2 + 9 * shape.num_layers + (not shape.tied)
    tensors: dict[str, torch.Tensor] = {}
    for number, (name, value) in enumerate(_weights(shape, seed)):
        tell("drawing the weights", number / num_tensors)
        tensors[name] = value
    tell("writing the weights", None)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return sum(tensor.numel() for tensor in tensors.values())


def _write_configs(shape: Preset, directory: Path) -> None:
    end_of_text, message_end = SPECIAL_TOKENS.index(END_OF_TEXT), SPECIAL_TOKENS.index(MESSAGE_END)
    ids = {
        "bos_token_id": end_of_text,
        "eos_token_id": [message_end, end_of_text],
        "pad_token_id": end_of_text,
    }
    names = {"bos_token": END_OF_TEXT, "eos_token": MESSAGE_END, "pad_token": END_OF_TEXT}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.mlp_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.hidden_size // shape.num_heads,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.window,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": shape.dtype,
        **ids,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.window,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": [MESSAGE_START],
        "chat_template": CHAT_TEMPLATE,
        **names,
    }
    files: dict[str, dict[str, object]] = {
        "config.json": config,
        "generation_config.json": {"do_sample": False, **ids},
        "tokenizer_config.json": tokenizer_config,
        "special_tokens_map.json": {"additional_special_tokens": [MESSAGE_START], **names},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")
