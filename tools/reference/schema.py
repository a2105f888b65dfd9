"""The page of the HTTP schema: every route, and every object that is sent or answered."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from parrot.assembly import embedded_app
from parrot.config.reference import field_docs
from reference import MADE, cell

INTRODUCTION = """\
What the running service says at `/openapi.json`, as a page. [HTTP interface](http.md) tells what the routes
are for, and [OpenAI-compatible interface](openai.md) what OpenAI's fields do here. A field without a default
must be given."""


def schema_page() -> str:
    """Every route and every object of the HTTP interface."""
    document = asyncio.run(_document())
    lines = ["# HTTP schema", "", MADE, "", INTRODUCTION, "", "## Routes"]
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            lines += ["", *_route_lines(method.upper(), path, route)]
    lines += ["", "## Objects"]
    models = _models()
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += ["", *_object_lines(name, schema, models.get(name))]
    return "\n".join(lines) + "\n"


async def _document() -> dict[str, Any]:
    async with embedded_app(engine="scripted", model=None) as app:
        return app.openapi()


def _models() -> dict[str, type[BaseModel]]:
    """The service's models, by name."""
    found: dict[str, type[BaseModel]] = {}
    waiting = list(BaseModel.__subclasses__())
    while waiting:
        model = waiting.pop()
        waiting += model.__subclasses__()
        if model.__module__.startswith("parrot."):
            found.setdefault(model.__name__, model)
    return found


def _route_lines(method: str, path: str, route: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{method} {path}`"
    yield ""
    yield f"{cell(route.get('description') or route['summary']).rstrip('.')}."
    body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    rows = [(f"{one['name']} ({one['in']})", _type(one["schema"])) for one in route.get("parameters", ())]
    if body:
        rows.append(("body", _type(body)))
    for status, response in route["responses"].items():
        content = next(iter(response.get("content", {"": {}}).items()))
        if status[0] == "2":
            answer = _type(content[1]["schema"]) if content[1].get("schema") else f"`{content[0]}`"
            rows.append((f"answer {status}", answer if content[0] else "nothing, or as its page says"))
    yield ""
    yield "| part | is |"
    yield "|---|---|"
    yield from (f"| {name} | {kind} |" for name, kind in rows)


def _object_lines(name: str, schema: Mapping[str, Any], model: type[BaseModel] | None) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    yield cell(schema.get("description", ""))
    docs: dict[str, str] = {}
    for base in reversed(model.__mro__ if model is not None else ()):
        if issubclass(base, BaseModel) and base.__module__.startswith("parrot."):
            docs.update(field_docs(base))
    aliases = {field.alias or key: key for key, field in (model.model_fields if model else {}).items()}
    required = set(schema.get("required", ()))
    rows = [
        (key, _type(one), "" if key in required else _default(one), docs.get(aliases.get(key, key), ""))
        for key, one in schema.get("properties", {}).items()
    ]
    if rows:
        yield ""
        yield "| field | type | default | meaning |"
        yield "|---|---|---|---|"
        yield from (f"| `{key}` | {kind} | {default} | {cell(doc)} |" for key, kind, default, doc in rows)


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    words = {None: "none", True: "true", False: "false", "": "empty"}
    if isinstance(default, list | dict):
        return "empty" if not default else f"`{default}`"
    return words[default] if default in (None, "") or isinstance(default, bool) else f"`{default}`"


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[key] if one.get("type") != "null"))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{one}`" for one in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "anything")
    if kind == "array":
        inner = schema.get("items") or {}
        return f"list of {_type(inner)}" + _bounds(schema, "Items")
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"object of {_type(inner)}" if isinstance(inner, dict) else "object"
    return f"{kind}{_bounds(schema, 'Length')}{_range(schema)}"


def _bounds(schema: Mapping[str, Any], what: str) -> str:
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    return f" ({'' if least is None else f'{least} '}to {most})" if most is not None else ""


def _range(schema: Mapping[str, Any]) -> str:
    limits = (
        ("minimum", "at least {}"),
        ("exclusiveMinimum", "above {}"),
        ("maximum", "at most {}"),
        ("exclusiveMaximum", "below {}"),
    )
    said = [words.format(schema[key]) for key, words in limits if key in schema]
    return f", {', '.join(said)}" if said else ""
