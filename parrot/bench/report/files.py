"""The result files of a directory, by what wrote them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parrot.errors import ConfigError

Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """One file."""

    name: str
    content: Found

    @property
    def started_at(self) -> str:
        """When its measurement began; empty where it does not matter, as in simulated time."""
        return str(self.content.get("started_at") or self.content.get("made_at", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All files; of each kind the newest last."""

    engine: tuple[ResultFile, ...] = ()
    apps: tuple[ResultFile, ...] = ()
    migration: tuple[ResultFile, ...] = ()
    control: tuple[ResultFile, ...] = ()
    scale: tuple[ResultFile, ...] = ()
    soak: tuple[ResultFile, ...] = ()
    reliability: tuple[ResultFile, ...] = ()
    paper: tuple[ResultFile, ...] = ()
    ablations: tuple[ResultFile, ...] = ()
    speed: tuple[ResultFile, ...] = ()
    langchain: tuple[ResultFile, ...] = ()
    unknown: tuple[ResultFile, ...] = ()
    """Of no kind that is shown."""

    def all(self) -> Sequence[ResultFile]:
        """Every file that is shown."""
        return (
            *self.apps,
            *self.migration,
            *self.engine,
            *self.control,
            *self.scale,
            *self.soak,
            *self.reliability,
            *self.langchain,
            *self.speed,
            *self.paper,
            *self.ablations,
        )


_SCHEMAS = {
    "parrot.bench.engine/1": "engine",
    "parrot.bench.apps/1": "apps",
    "parrot.bench.migration/1": "migration",
    "parrot.bench.control/1": "control",
    "parrot.bench.scale/1": "scale",
    "parrot.bench.soak/1": "soak",
    "parrot.bench.sim-speed/1": "speed",
    "parrot.bench.langchain/1": "langchain",
}
_NAMES = {
    "reliability": "reliability",
    "sim-paper": "paper",
    "sim-ablations": "ablations",
}
"""Of files without a schema: how their names begin."""


def newest_sections(files: Sequence[ResultFile], sections: Sequence[str]) -> tuple[Found, list[str]]:
    """Of files that may each have some sections only: the newest of each, and the files that they are from.

    A section is missing in a file when it is null or empty there.
    """
    found: dict[str, object] = dict.fromkeys(sections)
    names: dict[str, str] = {}
    for file in files:
        for section in sections:
            if file.content.get(section):
                found[section], names[section] = file.content[section], file.name
    return found, list(dict.fromkeys(names.values()))


def read_results(directory: Path) -> Results:
    """The results in a directory.

    Raises:
        ConfigError: there are none, or one is not JSON.
    """
    kinds: dict[str, list[ResultFile]] = {}
    for path in sorted(directory.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is no result file: {error}", param="--results") from None
        named = (kind for name, kind in _NAMES.items() if path.stem.startswith(name))
        kind = _SCHEMAS.get(str(content.get("schema"))) or next(named, "unknown")
        kinds.setdefault(kind, []).append(ResultFile(name=path.name, content=content))
    if not kinds:
        raise ConfigError(f"there are no results in {directory}", param="--results")
    ordered = {
        kind: tuple(sorted(files, key=lambda one: (one.started_at, one.name)))
        for kind, files in kinds.items()
    }
    return Results(**ordered)
