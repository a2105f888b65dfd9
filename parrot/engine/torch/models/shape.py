"""What a model's `config.json` says, checked and in one form for all families; needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parrot.errors import ConfigError

RopeKind = Literal["default", "linear", "llama3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeShape:
    """Rotary position embedding (Su et al. 2021) and how its frequencies are scaled for long contexts."""

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_context_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder of the Llama kind: RMSNorm, RoPE, grouped-query attention, SiLU-gated MLP."""

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    norm_eps: float
    rope: RopeShape
    tied_embeddings: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    context_tokens: int
    dtype: str
    """The weights' type as the files have it: `bfloat16`, `float16` or `float32`."""
    eos_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traits:
    """In what a family differs from the others; None: the config says."""

    qkv_bias: bool | None = None
    out_bias: bool | None = None
    qk_norm: bool = False


_FAMILIES: dict[str, _Traits] = {
    "llama": _Traits(),
    "mistral": _Traits(qkv_bias=False, out_bias=False),
    "qwen2": _Traits(qkv_bias=True, out_bias=False),
    "qwen3": _Traits(qk_norm=True),
}


class _Reader:
    """Typed access to one JSON object, with errors that name the file and the key."""

    def __init__(self, values: Mapping[str, object], path: Path) -> None:
        self.values = values
        self.path = path

    def fail(self, why: str) -> ConfigError:
        return ConfigError(f"{self.path}: {why}", code="bad_model", param="engine.model_dir")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fail(f"`{key}` must be a positive integer, not {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise self.fail(f"`{key}` must be a positive number, not {value!r}")
        return float(value)

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(f"`{key}` must be true or false, not {value!r}")
        return value


def read_json(path: Path) -> Mapping[str, object]:
    """One JSON object from a model directory.

    Raises:
        ConfigError: `bad_model`; the file is missing, is not JSON, or is not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read as JSON: {error}", code="bad_model", param="engine.model_dir"
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: is not a JSON object", code="bad_model", param="engine.model_dir")
    return value


def read_shape(model_dir: Path) -> ModelShape:
    """Read and check `config.json` and `generation_config.json`.

    Raises:
        ConfigError: `bad_model`; the message names the file, the key and what is wrong or not supported.
    """
    path = model_dir / "config.json"
    reader = _Reader(read_json(path), path)
    family = reader.values.get("model_type")
    traits = _FAMILIES.get(family) if isinstance(family, str) else None
    if traits is None or not isinstance(family, str):
        raise reader.fail(f"model_type {family!r} is not supported (supported: {', '.join(_FAMILIES)})")
    _refuse_unsupported(reader)
    num_heads = reader.integer("num_attention_heads")
    hidden_size = reader.integer("hidden_size")
    num_kv_heads = reader.integer("num_key_value_heads", default=num_heads)
    head_dim = reader.integer("head_dim", default=max(1, hidden_size // num_heads))
    if num_heads % num_kv_heads:
        raise reader.fail(f"num_attention_heads {num_heads} is no multiple of {num_kv_heads} KV heads")
    if head_dim % 2:
        raise reader.fail(f"head_dim {head_dim} is odd; rotary embeddings need pairs")
    bias = reader.boolean("attention_bias", default=False)
    return ModelShape(
        family=family,
        vocab_size=reader.integer("vocab_size"),
        hidden_size=hidden_size,
        num_layers=reader.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        mlp_size=reader.integer("intermediate_size"),
        norm_eps=reader.number("rms_norm_eps", default=1e-6),
        rope=_read_rope(reader),
        tied_embeddings=reader.boolean("tie_word_embeddings", default=False),
        qkv_bias=bias if traits.qkv_bias is None else traits.qkv_bias,
        out_bias=bias if traits.out_bias is None else traits.out_bias,
        mlp_bias=reader.boolean("mlp_bias", default=False),
        qk_norm=traits.qk_norm,
        context_tokens=reader.integer("max_position_embeddings", default=2048),
        dtype=_read_dtype(reader),
        eos_ids=_read_eos(reader, model_dir),
    )


def _refuse_unsupported(reader: _Reader) -> None:
    activation = reader.values.get("hidden_act", "silu")
    if activation != "silu":
        raise reader.fail(f"hidden_act {activation!r} is not supported (only silu)")
    if reader.values.get("quantization_config") is not None:
        raise reader.fail("quantised weights are not supported")
    window = reader.values.get("sliding_window")
    if window is None or reader.values.get("use_sliding_window") is False:
        return
    if reader.integer("sliding_window") < reader.integer("max_position_embeddings", default=2048):
        raise reader.fail(f"sliding-window attention (`sliding_window` {window}) is not supported")


def _read_dtype(reader: _Reader) -> str:
    dtype = reader.values.get("dtype", reader.values.get("torch_dtype")) or "float32"
    if dtype not in {"bfloat16", "float16", "float32"}:
        raise reader.fail(f"dtype {dtype!r} is not supported (bfloat16, float16 or float32)")
    return str(dtype)


def _read_rope(reader: _Reader) -> RopeShape:
    """RoPE settings in either form: `rope_parameters`, or `rope_theta` with `rope_scaling`."""
    nested = reader.values.get("rope_parameters") or reader.values.get("rope_scaling") or {}
    if not isinstance(nested, dict):
        raise reader.fail("`rope_parameters` must be an object")
    scaling = _Reader(nested, reader.path)
    kind = nested.get("rope_type", nested.get("type", "default"))
    theta = scaling.number("rope_theta", default=reader.number("rope_theta", default=10000.0))
    if nested.get("partial_rotary_factor", 1.0) != 1.0:
        raise reader.fail(
            "rotary embeddings over a part of the head (`partial_rotary_factor`) are not supported"
        )
    match kind:
        case "default" | None:
            return RopeShape(theta=theta)
        case "linear":
            return RopeShape(theta=theta, kind="linear", factor=scaling.number("factor"))
        case "llama3":
            return RopeShape(
                theta=theta,
                kind="llama3",
                factor=scaling.number("factor"),
                low_freq_factor=scaling.number("low_freq_factor"),
                high_freq_factor=scaling.number("high_freq_factor"),
                original_context_tokens=scaling.integer("original_max_position_embeddings"),
            )
        case _:
            raise reader.fail(f"rope_type {kind!r} is not supported (default, linear or llama3)")


def _read_eos(reader: _Reader, model_dir: Path) -> tuple[int, ...]:
    """End-of-sequence ids: the generation config's where there is one, else the model's."""
    path = model_dir / "generation_config.json"
    found = read_json(path).get("eos_token_id") if path.exists() else None
    if found is None:
        found = reader.values.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise reader.fail(f"`eos_token_id` must be token ids, not {found!r}")
    return tuple(ids)
