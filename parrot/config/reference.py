"""The settings as people read them: flat, with secrets masked, and as a page of documentation."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from typing import Any, get_type_hints

from parrot.config.settings import ENGINE_KINDS, SECRETS, SECTIONS, EngineSettings, Settings
from parrot.config.sources import variable_name

MASK = "********"

INTRODUCTION = """\
# Settings

Written by `parrot config docs`. `parrot config show --origin` prints what holds on a machine, and why.

A setting is looked for in this order: command-line option, environment variable, `./parrot.toml`, the user's
own `parrot.toml` (`parrot doctor` says where), default. In files a setting is a key in its section; in the
environment it is `PARROT_SECTION__KEY`. Lists and objects are written as JSON in the environment.

```toml
[server]
port = 8321

[engines.main]
kind = "torch"
model_dir = "models/small"
```

An unknown key in a file, a value of the wrong type, or settings that contradict each other end the command
with exit status 2. An unknown `PARROT_*` variable is a warning that names the nearest settings.
"""


def flatten(settings: Settings) -> dict[str, object]:
    """Dotted key → value for every setting; a secret that is set is shown as asterisks."""
    flat: dict[str, object] = {}
    for section in SECTIONS:
        flat.update(_flat(section, getattr(settings, section)))
    for engine in settings.engines:
        flat[f"engines.{engine.name}.kind"] = engine.kind
        flat[f"engines.{engine.name}.replicas"] = engine.replicas
        flat.update(_flat(f"engines.{engine.name}", engine.config))
    return flat


def field_docs(cls: type) -> dict[str, str]:
    """The sentence under each field of a configuration class, from its source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = tree.body[0]
    if not isinstance(body, ast.ClassDef):
        raise TypeError(f"{cls} is not a class")
    docs: dict[str, str] = {}
    for node, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            docs[node.target.id] = " ".join(str(following.value.value).split())
    return docs


def reference() -> str:
    """The page `docs/config.md`."""
    return "\n".join([INTRODUCTION, *_sections()])


def _sections() -> Iterator[str]:
    for section, cls in SECTIONS.items():
        yield from _table(f"`[{section}]`", section, cls)
    yield "## `[engines.NAME]`\n"
    yield "| key | default | meaning |\n|---|---|---|"
    yield f"| `kind` | `torch` | Which engine: {', '.join(f'`{kind}`' for kind in ENGINE_KINDS)}. |"
    yield f"| `replicas` | `1` | {field_docs(EngineSettings)['replicas']} |\n"
    for kind, cls in ENGINE_KINDS.items():
        yield from _table(f'`[engines.NAME]` with `kind = "{kind}"`', "engines.NAME", cls)


def _table(title: str, prefix: str, cls: type) -> Iterator[str]:
    docs, hints = field_docs(cls), get_type_hints(cls)
    yield f"## {title}\n"
    yield f"In the environment: `{variable_name(prefix)}__KEY`.\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    for field in fields(cls):
        kind = _type_name(hints[field.name]).replace("|", "\\|")
        meaning = docs.get(field.name, "").replace("|", "\\|")
        yield f"| `{field.name}` | {kind} | {_default(field)} | {meaning} |"
    yield ""


def _default(field: "Field[Any]") -> str:
    if field.default_factory is not MISSING:
        value: object = field.default_factory()
    elif field.default is MISSING:
        return "must be set"
    else:
        value = field.default
    return "not set" if value is None or value in ("", ()) else f"`{value}`"


def _type_name(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) else str(hint)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", name).replace("NoneType", "None")


def _flat(prefix: str, config: Any) -> Iterator[tuple[str, object]]:
    for field in fields(config):
        key = f"{prefix}.{field.name}"
        value = getattr(config, field.name)
        yield key, MASK if value and key in SECRETS else _plain(value)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)
