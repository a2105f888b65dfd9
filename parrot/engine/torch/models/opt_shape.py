"""What the `config.json` of an OPT model says (Zhang et al. 2022)."""

from dataclasses import dataclass
from pathlib import Path

from parrot.engine.torch.models.config_reader import ConfigReader
from parrot.engine.torch.models.shape import ModelShape, read_dtype, read_eos

FAMILY = "opt"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptShape(ModelShape):
    """A decoder with learned positions, LayerNorm, biases, and a ReLU between two matrices."""

    mlp_size: int
    embedding_size: int
    """Width of the embeddings; where it is not the hidden size, a projection stands on either side."""
    norm_first: bool
    """Norms stand before attention and MLP, and one at the end; else after each."""
    final_norm: bool
    bias: bool
    norm_weights: bool
    """Norms have weights and biases."""


def why_not_opt(reader: ConfigReader) -> str | None:
    """What the config asks for that is not computed here; None when there is nothing."""
    activation = reader.values.get("activation_function", "relu")
    return None if activation == "relu" else f"activation_function {activation!r}"


def read_opt_shape(reader: ConfigReader, model_dir: Path) -> OptShape:
    """Read and check `config.json` and `generation_config.json`.

    Raises:
        ConfigError: `bad_model`; the message names the file, the key and what is wrong.
    """
    hidden_size = reader.integer("hidden_size", 768)
    num_heads = reader.integer("num_attention_heads", 12)
    if hidden_size % num_heads:
        raise reader.fail(f"hidden_size {hidden_size} is no multiple of {num_heads} heads")
    norm_first = reader.boolean("do_layer_norm_before", default=True)
    return OptShape(
        family=FAMILY,
        vocab_size=reader.integer("vocab_size", 50272),
        hidden_size=hidden_size,
        num_layers=reader.integer("num_hidden_layers", 12),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        context_tokens=reader.integer("max_position_embeddings", 2048),
        dtype=read_dtype(reader),
        eos_ids=read_eos(reader, model_dir),
        tied_embeddings=reader.boolean("tie_word_embeddings", default=True),
        mlp_size=reader.integer("ffn_dim", 3072),
        embedding_size=reader.integer("word_embed_proj_dim", hidden_size),
        norm_first=norm_first,
        final_norm=norm_first and not reader.boolean("_remove_final_layer_norm", default=False),
        bias=reader.boolean("enable_bias", default=True),
        norm_weights=reader.boolean("layer_norm_elementwise_affine", default=True),
    )
