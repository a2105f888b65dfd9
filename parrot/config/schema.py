"""The settings' shape for validation: pydantic models made from the components' configurations."""

import re
import types
from dataclasses import MISSING, fields
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, create_model
from pydantic_settings import BaseSettings

from parrot.config.settings import ENGINE_KINDS, SECTIONS
from parrot.server.config import ApiKey
from parrot.types.ids import NAME_PATTERN, TenantId

DEFAULT_KIND = "torch"

EngineName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]


@cache
def section_model(cls: type) -> type[BaseModel]:
    """The model that accepts exactly the fields of a configuration; numbers may not be negative."""
    return create_model(
        cls.__name__, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **_model_fields(cls)
    )


@cache
def settings_model() -> type[BaseModel]:
    """The model of a whole tree of settings."""
    model: type[BaseModel] = create_model(
        "Settings", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **_tree_fields()
    )
    return model


@cache
def environment_model() -> type[BaseSettings]:
    """The same, as the environment's reader wants it."""
    return create_model("Environment", __base__=BaseSettings, **_tree_fields())


def known_keys() -> tuple[str, ...]:
    """Every dotted key that exists; `*` stands for an engine's name."""
    keys = [f"{section}.{field.name}" for section, cls in SECTIONS.items() for field in fields(cls)]
    names = dict.fromkeys(["kind", "replicas"])
    for cls in ENGINE_KINDS.values():
        names.update(dict.fromkeys(field.name for field in fields(cls)))
    return (*keys, *(f"engines.*.{name}" for name in names))


def _tree_fields() -> dict[str, Any]:
    tree: dict[str, Any] = {
        section: (section_model(cls), Field(default_factory=section_model(cls)))
        for section, cls in SECTIONS.items()
    }
    kinds: Any = Union.__getitem__(tuple(_engine_model(kind) for kind in ENGINE_KINDS))
    engine: Any = Annotated[kinds, Field(discriminator="kind")]
    engines: Any = dict.__class_getitem__((EngineName, engine))
    tree["engines"] = (engines, Field(default_factory=dict))
    return tree


@cache
def _engine_model(kind: str) -> type[BaseModel]:
    only: Any = Literal.__getitem__(kind)
    model: type[BaseModel] = create_model(
        f"{kind.title()}Engine",
        __config__=ConfigDict(extra="forbid", allow_inf_nan=False),
        kind=(only, ...),
        replicas=(Annotated[int, Field(ge=1, le=64)], 1),
        **_model_fields(ENGINE_KINDS[kind]),
    )
    return model


def _model_fields(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    found: dict[str, Any] = {}
    for field in fields(cls):
        hint = _accepted(hints[field.name])
        if field.default_factory is not MISSING:
            found[field.name] = (hint, Field(default_factory=field.default_factory))
        else:
            found[field.name] = (hint, ... if field.default is MISSING else field.default)
    return found


def _accepted(hint: Any) -> Any:
    """What a file or variable may say for a field of this type."""
    if hint == tuple[ApiKey, ...]:
        return tuple[Annotated[ApiKey, BeforeValidator(_api_key)], ...]
    return _not_negative(hint)


def _api_key(value: object) -> object:
    """`TENANT:SHA256` or `TENANT:SHA256:admin`, the hash in hexadecimal digits, as `parrot keys new --entry`
    prints it.
    """
    if isinstance(value, ApiKey):
        return value
    parts = value.split(":") if isinstance(value, str) else []
    well_formed = len(parts) in {2, 3} and parts[2:] in ([], ["admin"])
    if not well_formed or not NAME_PATTERN.match(parts[0]) or not re.fullmatch(r"[0-9a-f]{64}", parts[1]):
        raise ValueError('a key is written "TENANT:SHA256"; `parrot keys new TENANT --entry` makes one')
    return ApiKey(tenant_id=TenantId(parts[0]), sha256=bytes.fromhex(parts[1]), admin=len(parts) == 3)


def _not_negative(hint: Any) -> Any:
    if hint in (int, float):
        return Annotated[hint, Field(ge=0)]
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(_not_negative(part) for part in get_args(hint))]  # noqa: UP007
    return hint
