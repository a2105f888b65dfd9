"""What the `config.json` of a Llama-like model says, checked and in one form for all such families.

Where a config asks for something that the fast path does not compute, `why_not_llama` says so, and the model
runs through `models.generic` instead.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parrot.engine.torch.models.config_reader import ConfigReader
from parrot.engine.torch.models.shape import ModelShape, read_dtype, read_eos

RopeKind = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeShape:
    """Rotary position embedding (Su et al. 2021) and how its frequencies are scaled for long contexts."""

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_context_tokens: int = 0
    beta_fast: float = 32.0
    """YaRN: dimensions that turn more often than this within the original window stay as they are."""
    beta_slow: float = 1.0
    """YaRN: dimensions that turn less often are stretched by the whole factor."""
    rounds_range: bool = True
    """YaRN: the two bounds between them are whole dimensions."""
    attention_factor: float | None = None
    """YaRN: factor on rotated vectors; None: from `factor`, as its authors recommend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape(ModelShape):
    """A decoder of the Llama kind: RMSNorm, RoPE, grouped-query attention, SiLU-gated MLP."""

    mlp_size: int
    norm_eps: float
    rope: RopeShape
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int | None, ...]
    """As in `models.decoder.AttentionTraits`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traits:
    """In what a family differs from the others; None: the config says."""

    qkv_bias: bool | None = None
    out_bias: bool | None = None
    qk_norm: bool = False
    window: Literal["never", "all layers", "some layers"] = "never"
    """Which layers a `sliding_window` is for."""


_TRAITS: dict[str, _Traits] = {
    "llama": _Traits(),
    "mistral": _Traits(qkv_bias=False, out_bias=False, window="all layers"),
    "qwen2": _Traits(qkv_bias=True, out_bias=False, window="some layers"),
    "qwen3": _Traits(qk_norm=True, window="some layers"),
}
FAMILIES = tuple(_TRAITS)
"""`model_type` of the families that run here."""

_ROPE_KINDS = (None, "default", "linear", "llama3", "yarn", "dynamic")


def why_not_llama(reader: ConfigReader) -> str | None:
    """What a config of one of `FAMILIES` asks for that is not computed here; None when there is nothing.

    Raises:
        ConfigError: `bad_model`; the config is not well-formed.
    """
    activation = reader.values.get("hidden_act", "silu")
    if activation != "silu":
        return f"hidden_act {activation!r}"
    rope = _rope_settings(reader)
    kind = rope.values.get("rope_type", rope.values.get("type"))
    if kind not in _ROPE_KINDS:
        return f"rope_type {kind!r}"
    factor = rope.values.get("partial_rotary_factor", reader.values.get("partial_rotary_factor", 1.0))
    if factor not in {None, 1.0}:
        return f"partial_rotary_factor {factor!r}"
    if rope.values.get("mscale") or rope.values.get("mscale_all_dim"):
        return "`mscale` of rotary embeddings"
    return None


def read_llama_shape(reader: ConfigReader, model_dir: Path) -> LlamaShape:
    """Read and check `config.json` and `generation_config.json` of one of `FAMILIES`.

    Raises:
        ConfigError: `bad_model`; the message names the file, the key and what is wrong.
    """
    family = str(reader.values["model_type"])
    traits = _TRAITS[family]
    num_heads = reader.integer("num_attention_heads")
    hidden_size = reader.integer("hidden_size")
    num_kv_heads = reader.integer("num_key_value_heads", default=num_heads)
    head_dim = reader.integer("head_dim", default=max(1, hidden_size // num_heads))
    if num_heads % num_kv_heads:
        raise reader.fail(f"num_attention_heads {num_heads} is no multiple of {num_kv_heads} KV heads")
    if head_dim % 2:
        raise reader.fail(f"head_dim {head_dim} is odd; rotary embeddings need pairs")
    bias = reader.boolean("attention_bias", default=False)
    num_layers = reader.integer("num_hidden_layers")
    context_tokens = reader.integer("max_position_embeddings", default=2048)
    return LlamaShape(
        family=family,
        vocab_size=reader.integer("vocab_size"),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        mlp_size=reader.integer("intermediate_size"),
        norm_eps=reader.number("rms_norm_eps", default=1e-6),
        rope=_read_rope(reader, context_tokens),
        tied_embeddings=reader.boolean("tie_word_embeddings", default=False),
        qkv_bias=bias if traits.qkv_bias is None else traits.qkv_bias,
        out_bias=bias if traits.out_bias is None else traits.out_bias,
        mlp_bias=reader.boolean("mlp_bias", default=False),
        qk_norm=traits.qk_norm,
        context_tokens=context_tokens,
        dtype=read_dtype(reader),
        eos_ids=read_eos(reader, model_dir),
        windows=_read_windows(reader, traits, num_layers),
    )


def _read_windows(reader: ConfigReader, traits: _Traits, num_layers: int) -> tuple[int | None, ...]:
    """Mistral's window is for all layers; Qwen's must be switched on and is for the layers it names, or for
    those from `max_window_layers` on. A window that is not named has 4,096 tokens.
    """
    if traits.window == "never":
        return ()
    if traits.window == "all layers":
        window = None if _is_null(reader, "sliding_window") else reader.integer("sliding_window", 4096)
        return (window,) * num_layers
    if not reader.boolean("use_sliding_window", default=False) or _is_null(reader, "sliding_window"):
        return ()
    window = reader.integer("sliding_window", 4096)
    kinds = reader.values.get("layer_types")
    if kinds is None:
        first = reader.values.get("max_window_layers", 28)
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise reader.fail(f"`max_window_layers` must be a number of layers, not {first!r}")
        return tuple(window if layer >= first else None for layer in range(num_layers))
    known = {"sliding_attention": window, "full_attention": None}
    if not isinstance(kinds, list) or len(kinds) != num_layers or not known.keys() >= set(map(str, kinds)):
        raise reader.fail("`layer_types` must name sliding_attention or full_attention for each layer")
    return tuple(known[str(kind)] for kind in kinds)


def _is_null(reader: ConfigReader, key: str) -> bool:
    return key in reader.values and reader.values[key] is None


def _rope_settings(reader: ConfigReader) -> ConfigReader:
    """RoPE settings in either form: `rope_parameters`, or `rope_theta` with `rope_scaling`."""
    return reader.inner("rope_parameters" if reader.values.get("rope_parameters") else "rope_scaling")


def _read_rope(reader: ConfigReader, context_tokens: int) -> RopeShape:
    scaling = _rope_settings(reader)
    kind = scaling.values.get("rope_type", scaling.values.get("type"))
    theta = scaling.number("rope_theta", default=reader.number("rope_theta", default=10000.0))
    match kind:
        case "linear":
            return RopeShape(theta=theta, kind="linear", factor=scaling.number("factor"))
        case "llama3":
            return RopeShape(
                theta=theta,
                kind="llama3",
                factor=scaling.number("factor"),
                low_freq_factor=scaling.number("low_freq_factor"),
                high_freq_factor=scaling.number("high_freq_factor"),
                original_context_tokens=scaling.integer("original_max_position_embeddings", context_tokens),
            )
        case "yarn":
            return _read_yarn(scaling, theta, context_tokens)
        case _:
            # "dynamic" scales beyond the trained window only, and no context is longer than that here.
            return RopeShape(theta=theta)


def _read_yarn(scaling: ConfigReader, theta: float, context_tokens: int) -> RopeShape:
    given = scaling.values.get("attention_factor")
    return RopeShape(
        theta=theta,
        kind="yarn",
        factor=scaling.number("factor"),
        original_context_tokens=scaling.integer("original_max_position_embeddings", context_tokens),
        beta_fast=scaling.number("beta_fast", 32.0),
        beta_slow=scaling.number("beta_slow", 1.0),
        rounds_range=scaling.boolean("truncate", default=True),
        attention_factor=None if given is None else scaling.number("attention_factor"),
    )
