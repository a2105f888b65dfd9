"""Where settings come from: files, environment variables and command-line options, each as one layer."""

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from parrot.errors import ConfigError

PREFIX = "PARROT_"
NESTED = "__"
FILE_NAME = "parrot.toml"
MAX_FILE_BYTES = 1 << 20

COMMAND_VARIABLES = frozenset({"PARROT_URL", "PARROT_API_KEY", "PARROT_DEBUG"})
"""Variables that belong to single commands and are read by them as their options' defaults."""

Tree = Mapping[str, object]
"""Nested mappings whose leaves are values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One source's settings."""

    kind: Literal["option", "environment", "file"]
    name: str
    """What people call the source: a path for files."""
    values: Tree
    option_names: Mapping[str, str] = field(default_factory=dict)
    """For options: dotted key → what the option is called."""

    def locate(self, key: str) -> str:
        """Where a person finds `key` (dotted) in this source."""
        if self.kind == "environment":
            return variable_name(key)
        if self.kind == "option":
            return self.option_names.get(key, key)
        return f"{self.name}:{key}"

    def holds(self, key: str) -> bool:
        """Whether this source says anything about `key` or what is below it."""
        node: object = self.values
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return False
            node = node[part]
        return True


def leaves(tree: Tree, above: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and values of a tree, in its order."""
    for name, value in tree.items():
        key = f"{above}.{name}" if above else name
        if isinstance(value, Mapping):
            yield from leaves(value, key)
        else:
            yield key, value


def nest(flat: Mapping[str, object]) -> Tree:
    """The tree whose leaves are the dotted keys of `flat`."""
    tree: dict[str, object] = {}
    for key, value in flat.items():
        *above, last = key.split(".")
        node = tree
        for part in above:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise ConfigError(f"{key} is set both as a value and as a section", param=key)
            node = child
        node[last] = value
    return tree


def variable_name(key: str) -> str:
    """The environment variable for a dotted key: `limits.max_wait_s` → `PARROT_LIMITS__MAX_WAIT_S`."""
    return PREFIX + key.upper().replace(".", NESTED)


def default_files() -> tuple[Path, ...]:
    """The files that are read when they exist, the more important first."""
    return (Path(FILE_NAME), platformdirs.user_config_path("parrot") / FILE_NAME)


def file_layer(path: Path) -> Layer | None:
    """A TOML file's settings; None when there is no such file.

    Raises:
        ConfigError: the file cannot be read, is larger than 1 MiB, or is not TOML (then with the line).
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", param=str(path)) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes", param=str(path))
    try:
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}", param=str(path)) from None
    name = f"./{path}" if path == Path(FILE_NAME) else str(path)
    return Layer(kind="file", name=name, values=values)


def readable_by_others(path: Path) -> bool:
    """Whether somebody other than the file's owner may read it."""
    try:
        return bool(path.stat().st_mode & 0o044)
    except OSError:
        return False


def environment_layer(schema: type[BaseSettings], known: Sequence[str]) -> tuple[Layer, tuple[str, ...]]:
    """The settings among the environment's `PARROT_*` variables, and a warning for each that is no setting.

    `known` are the dotted keys that exist, with `*` for an engine's name.

    Raises:
        ConfigError: a variable that should be JSON is not.
    """
    present = sorted(name.upper() for name in os.environ if name.upper().startswith(PREFIX))
    strange = [name for name in present if name not in COMMAND_VARIABLES and not _is_known(name, known)]
    try:
        source = EnvSettingsSource(
            schema,
            case_sensitive=False,
            env_prefix=PREFIX,
            env_nested_delimiter=NESTED,
            env_ignore_empty=True,
        )
        flat = dict(leaves(source()))
    except SettingsError as error:
        name = next(filter(_is_broken_json, present), "environment")
        raise ConfigError(f"{name}: {error.__cause__ or error}", param=name) from None
    for name in strange:
        flat.pop(_dotted(name), None)
    warnings = tuple(_strange_variable(name, known) for name in strange)
    return Layer(kind="environment", name="environment", values=nest(flat)), warnings


def _is_broken_json(variable: str) -> bool:
    text = next((value for name, value in os.environ.items() if name.upper() == variable), "")
    try:
        json.loads(text)
    except ValueError:
        return text.startswith(("[", "{"))
    return False


def _dotted(variable: str) -> str:
    return variable.removeprefix(PREFIX).lower().replace(NESTED, ".")


def _is_known(variable: str, known: Sequence[str]) -> bool:
    parts = _dotted(variable).split(".")
    if parts[0] == "engines" and len(parts) > 1:
        parts[1] = "*"
    key = ".".join(parts)
    return any(other == key or other.startswith(f"{key}.") for other in known)


def _strange_variable(variable: str, known: Sequence[str]) -> str:
    names = [variable_name(key) for key in known]
    close = get_close_matches(variable, names, n=2, cutoff=0.7)
    if not close:
        wanted = _dotted(variable).rpartition(".")[2].replace("_", "")
        by_end = {key.rpartition(".")[2].replace("_", ""): variable_name(key) for key in known}
        close = [by_end[end] for end in get_close_matches(wanted, by_end, n=2, cutoff=0.5)]
    hint = f"; did you mean {' or '.join(close)}?" if close else "; `parrot config show` lists what there is"
    return f"{variable} is not a setting and is ignored{hint}"
