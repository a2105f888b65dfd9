"""What every model says of itself, whatever its family; needs no torch."""

from dataclasses import dataclass
from pathlib import Path

from parrot.engine.torch.models.config_reader import ConfigReader, read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes that the engine around a model needs."""

    family: str
    """`model_type` of its config."""
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_tokens: int
    """The longest context."""
    dtype: str
    """The weights' type as the files have it: `bfloat16`, `float16` or `float32`."""
    eos_ids: tuple[int, ...]
    tied_embeddings: bool
    """The output projection is the embedding."""


def read_dtype(reader: ConfigReader) -> str:
    """The type of the weights.

    Raises:
        ConfigError: `bad_model`; one that the engine does not compute with.
    """
    dtype = reader.values.get("dtype", reader.values.get("torch_dtype")) or "float32"
    if dtype not in {"bfloat16", "float16", "float32"}:
        raise reader.fail(f"dtype {dtype!r} is not supported (bfloat16, float16 or float32)")
    return str(dtype)


def read_eos(reader: ConfigReader, model_dir: Path) -> tuple[int, ...]:
    """End-of-sequence ids: the generation config's where there is one, else the model's.

    Raises:
        ConfigError: `bad_model`; they are not token ids.
    """
    path = model_dir / "generation_config.json"
    found = read_json(path).get("eos_token_id") if path.exists() else None
    if found is None:
        found = reader.values.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise reader.fail(f"`eos_token_id` must be token ids, not {found!r}")
    return tuple(ids)
