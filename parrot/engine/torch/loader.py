"""From a directory in Hugging Face format to weights in memory, one tensor at a time."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from parrot.engine.torch.models.config_reader import read_json
from parrot.errors import ConfigError

_IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)
"""Tensors that old checkpoints carry and that follow from the config."""

_SAMPLE_BYTES = 4096
_NUM_SAMPLES = 256


class WeightFiles:
    """The tensors of a model directory by name, whether they lie in one file or in several.

    Use as a context manager. Every tensor must be taken: one that nobody asks for means that the model has
    a part this engine does not know.
    """

    def __init__(self, model_dir: Path) -> None:
        self._dir = model_dir
        self._files: dict[str, Any] = {}
        """By tensor name, the open file it is in."""
        self._taken: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> "WeightFiles":
        for path in weight_paths(self._dir):
            try:
                file = self._stack.enter_context(safe_open(str(path), framework="pt"))
                self._files.update(dict.fromkeys(file.keys(), file))
            except (OSError, SafetensorError) as error:
                self._stack.close()
                raise bad_model(path, f"cannot be read: {error}") from error
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def num_tensors(self) -> int:
        """Tensors in all files."""
        return len(self._files)

    @property
    def num_taken(self) -> int:
        """Tensors that were copied or skipped."""
        return len(self._taken)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def copy_into(self, target: torch.Tensor, name: str) -> None:
        """Fill `target` with the tensor of that name, converted to the target's type and device.

        Raises:
            ConfigError: `bad_model`; no such tensor, another shape, or a damaged file.
        """
        file = self._files.get(name)
        if file is None:
            raise bad_model(self._dir, f"the weights have no tensor {name!r}")
        try:
            tensor: torch.Tensor = file.get_tensor(name)
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise bad_model(self._dir, f"tensor {name!r} cannot be read: {error}") from error
        if tensor.shape != target.shape:
            raise bad_model(
                self._dir,
                f"tensor {name!r} has shape {[*tensor.shape]}, the config asks for {[*target.shape]}",
            )
        target.copy_(tensor)
        self._taken.add(name)

    def skip(self, name: str) -> None:
        """A tensor that is there and not needed, such as a tied output projection written out."""
        if name in self._files:
            self._taken.add(name)

    def check_all_taken(self) -> None:
        """Raises `ConfigError` (`bad_model`) when a tensor was not asked for."""
        left = sorted(
            name for name in self._files if name not in self._taken and not name.endswith(_IGNORED_SUFFIXES)
        )
        if left:
            raise bad_model(
                self._dir, f"{len(left)} tensors do not belong to this kind of model, such as {left[0]!r}"
            )


def weight_paths(model_dir: Path) -> list[Path]:
    """The safetensors files of a model: those that the index names, or the only one.

    Raises:
        ConfigError: `bad_model`; there are none, or the index names a file that is not there.
    """
    index = model_dir / "model.safetensors.index.json"
    if index.exists():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise bad_model(index, "`weight_map` must map tensor names to file names")
        paths = [model_dir / Path(name).name for name in sorted(set(names.values()))]
        for path in paths:
            if not path.exists():
                raise bad_model(path, f"is named in {index.name} and does not exist")
        return paths
    path = model_dir / "model.safetensors"
    if path.exists():
        return [path]
    raise bad_model(model_dir, "has neither model.safetensors nor model.safetensors.index.json")


def hash_model(model_dir: Path, dtype: str) -> str:
    """A fingerprint of token ids and weights: equal for copies of one model run with one type.

    Of each weight file it takes the size and samples spread over it, so that large models start quickly.
    """
    digest = hashlib.blake2b(dtype.encode(), digest_size=16)
    for name in ("config.json", "tokenizer.json"):
        digest.update((model_dir / name).read_bytes())
    for path in weight_paths(model_dir):
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for offset in _sample_offsets(size):
                file.seek(offset)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _sample_offsets(size: int) -> Iterator[int]:
    stride = max(_SAMPLE_BYTES, size // _NUM_SAMPLES)
    return iter(range(0, size, stride))


def bad_model(path: Path, why: str) -> ConfigError:
    """The error for a model directory that cannot be used."""
    return ConfigError(f"{path}: {why}", code="bad_model", param="engine.model_dir")
