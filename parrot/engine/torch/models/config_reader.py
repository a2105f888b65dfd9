"""Typed access to a model's JSON files; needs no torch."""

import json
from collections.abc import Mapping
from pathlib import Path

from parrot.errors import ConfigError


class ConfigReader:
    """One JSON object, with errors that name the file and the key."""

    def __init__(self, values: Mapping[str, object], path: Path) -> None:
        self.values = values
        self.path = path

    def fail(self, why: str) -> ConfigError:
        """The error to raise when the file cannot be used."""
        return ConfigError(f"{self.path}: {why}", code="bad_model", param="engine.model_dir")

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer; raises `ConfigError` (`bad_model`) for anything else."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fail(f"`{key}` must be a positive integer, not {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number; raises `ConfigError` (`bad_model`) for anything else."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise self.fail(f"`{key}` must be a positive number, not {value!r}")
        return float(value)

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false; raises `ConfigError` (`bad_model`) for anything else."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(f"`{key}` must be true or false, not {value!r}")
        return value

    def inner(self, key: str) -> "ConfigReader":
        """The object under `key`; empty when there is none."""
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.fail(f"`{key}` must be an object")
        return ConfigReader(value, self.path)


def open_config(model_dir: Path) -> ConfigReader:
    """The model's `config.json`.

    Raises:
        ConfigError: `bad_model`; it is missing, is not JSON, or is not an object.
    """
    path = model_dir / "config.json"
    return ConfigReader(read_json(path), path)


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
