"""Layers to settings: each is checked by itself, so that an error names its source; then all are merged."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from parrot.config.checks import contradictions
from parrot.config.schema import DEFAULT_KIND, environment_model, known_keys, settings_model
from parrot.config.settings import ENGINE_KINDS, SECRETS, SECTIONS, EngineSettings, Settings
from parrot.config.sources import (
    Layer,
    Tree,
    default_files,
    environment_layer,
    file_layer,
    leaves,
    nest,
    readable_by_others,
)
from parrot.errors import ConfigError

DEFAULT_LAYER = "default"

INCOMPLETE = frozenset({"missing", "union_tag_not_found"})
"""What is no fault in one layer alone: another may complete it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Settings, and what is to be told about where they come from."""

    settings: Settings
    origins: Mapping[str, str]
    """Dotted key → its source, for every key that is not at its default."""
    warnings: tuple[str, ...]
    """For people: variables that are no settings, secrets that others can read."""


def load_settings(
    options: Mapping[str, object] | None = None,
    *,
    option_names: Mapping[str, str] | None = None,
    files: Sequence[Path] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> Loaded:
    """Read all sources and build the settings.

    `options` are dotted keys from the command line, and `option_names` what the user calls them; `files`
    replaces the usual files, the more important first; `defaults` are dotted keys that a command prefers to
    the built-in defaults.

    Raises:
        ConfigError: a key that does not exist, a value of the wrong type or out of bounds, or settings that
            contradict each other; the message names the source and the key.
    """
    environment, warnings = environment_layer(environment_model(), known_keys())
    paths = default_files() if files is None else files
    read = [(path, layer) for path in paths if (layer := file_layer(path)) is not None]
    layers = [
        Layer(kind="option", name="option", values=nest(options or {}), option_names=option_names or {}),
        environment,
        *(layer for _, layer in read),
        Layer(kind="option", name=DEFAULT_LAYER, values=nest(defaults or {})),
    ]
    for layer in layers:
        _check(layer)
    settings = _build(_merge(layers), layers)
    for key, complaint, code in contradictions(settings):
        raise ConfigError(f"{_locate(layers, key)}: {complaint}", code=code, param=key)
    return Loaded(
        settings=settings,
        origins=_origins(layers),
        warnings=(*warnings, *_exposed(read)),
    )


def _check(layer: Layer) -> None:
    """Raise the first fault that is in this layer alone."""
    model = settings_model()
    try:
        if layer.kind == "file":
            model.model_validate_json(json.dumps(layer.values, default=str), strict=True)
        else:
            model.model_validate(layer.values)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] not in INCOMPLETE:
                raise _fault(detail, [layer]) from None


def _merge(layers: Sequence[Layer]) -> dict[str, object]:
    merged: dict[str, object] = {}
    for layer in reversed(layers):
        _overlay(merged, layer.values)
    engines = merged.get("engines")
    for engine in engines.values() if isinstance(engines, dict) else ():
        engine.setdefault("kind", DEFAULT_KIND)
    return merged


def _overlay(below: dict[str, object], above: Tree) -> None:
    for name, value in above.items():
        if isinstance(value, Mapping):
            child = below.get(name)
            below[name] = child = dict(child) if isinstance(child, Mapping) else {}
            _overlay(child, value)
        else:
            below[name] = value


def _build(tree: Mapping[str, object], layers: Sequence[Layer]) -> Settings:
    try:
        model: Any = settings_model().model_validate(tree)
    except ValidationError as error:
        raise _fault(error.errors(include_url=False)[0], layers) from None
    engines = tuple(_engine(name, engine, layers) for name, engine in model.engines.items())
    sections = {section: _config(cls, getattr(model, section)) for section, cls in SECTIONS.items()}
    return Settings(engines=engines, **sections)


def _engine(name: str, model: Any, layers: Sequence[Layer]) -> EngineSettings:
    try:
        config = _config(ENGINE_KINDS[model.kind], model)
    except ConfigError as error:
        raise ConfigError(
            f"{_locate(layers, f'engines.{name}')}: {error.message}", param=f"engines.{name}"
        ) from None
    return EngineSettings(name=name, replicas=model.replicas, config=config)


def _config(cls: type[Any], model: BaseModel) -> Any:
    return cls(**{field.name: getattr(model, field.name) for field in fields(cls)})


def _fault(detail: ErrorDetails, layers: Sequence[Layer]) -> ConfigError:
    path = [str(part) for part in detail["loc"]]
    kind = path.pop(2) if path[0] == "engines" and len(path) > 2 and path[2] in ENGINE_KINDS else None
    key = ".".join(part for part in path if part != "[key]")
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = _of_other_kind(layers, path, kind) or f"no such setting{_nearest(path)}"
    elif detail["type"] == "missing":
        message = f"{path[-1]} must be set"
    elif detail["type"] == "string_pattern_mismatch" and path[0] == "engines":
        message = "an engine's name is a lower-case word of at most 32 characters"
    return ConfigError(f"{_locate(layers, key)}: {message}", param=key)


def _of_other_kind(layers: Sequence[Layer], path: Sequence[str], kind: str | None) -> str | None:
    """What is wrong with a setting that only engines of another kind have."""
    others = [name for name, cls in ENGINE_KINDS.items() if path[-1] in {field.name for field in fields(cls)}]
    if kind is None or len(path) != 3 or not others:
        return None
    key = f"engines.{path[1]}.kind"
    said = any(layer.holds(key) for layer in layers)
    reason = f"{_locate(layers, key)} makes it {kind}" if said else f"it is {kind}"
    return f"only {' and '.join(others)} engines have this setting, and {reason}"


def _nearest(path: Sequence[str]) -> str:
    known = [key.replace("*", path[1] if len(path) > 1 else "NAME") for key in known_keys()]
    close = get_close_matches(".".join(path), [*known, *SECTIONS, "engines"], n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _locate(layers: Sequence[Layer], key: str) -> str:
    """Where `key` is set; for a key that is nowhere, where what is above it is set."""
    while True:
        for layer in layers:
            if layer.holds(key):
                return layer.locate(key)
        above, _, _ = key.rpartition(".")
        if not above:
            return key
        key = above


def _origins(layers: Sequence[Layer]) -> dict[str, str]:
    origins: dict[str, str] = {}
    for layer in layers:
        for key, _ in leaves(layer.values):
            if layer.name != DEFAULT_LAYER:
                origins.setdefault(key, layer.name)
    return origins


def _exposed(read: Sequence[tuple[Path, Layer]]) -> Iterator[str]:
    for path, layer in read:
        secrets = sorted(key for key in SECRETS if layer.holds(key))
        if secrets and readable_by_others(path):
            yield f"{layer.name} holds {', '.join(secrets)} and others can read it; run: chmod 600 {path}"
