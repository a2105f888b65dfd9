"""A small JSON value that is valid under a JSON schema, for the common part of JSON Schema 2020-12.

Understood: `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`, `items`, `minItems`,
`maxItems`, `minLength`, `maxLength`, `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `anyOf`
(its first alternative), `$ref` into `$defs`, and annotations. Anything else is refused, not ignored.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import cast

from parrot.errors import InvalidError

_MAX_DEPTH = 16
_MAX_ITEMS = 64
_MAX_CHARS = 4096
_ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "format")
)
_IGNORED = _ANNOTATIONS | {"$schema", "$id", "$comment", "$defs", "definitions", "additionalProperties"}
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "string": frozenset(("minLength", "maxLength")),
    "integer": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "boolean": frozenset(),
    "null": frozenset(),
    "array": frozenset(("items", "minItems", "maxItems")),
    "object": frozenset(("properties", "required")),
}

Schema = Mapping[str, object]


def sample_json(source: str, words: Iterator[str]) -> str:
    """JSON text valid under the schema whose JSON text is `source`; strings are made of `words`.

    Raises:
        InvalidError: `grammar_unsupported`, for a schema that is not one or says more than is understood.
    """
    try:
        schema = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise _refuse("the schema is not JSON") from error
    return json.dumps(_Sampler(schema, words).value(schema, 0), ensure_ascii=False)


def _refuse(reason: str) -> InvalidError:
    return InvalidError(f"{reason}; this engine understands simple schemas only", code="grammar_unsupported")


class _Sampler:
    def __init__(self, root: object, words: Iterator[str]) -> None:
        self._root = root
        self._words = words

    def value(self, schema: object, depth: int) -> object:
        if depth > _MAX_DEPTH:
            raise _refuse(f"the schema nests deeper than {_MAX_DEPTH}")
        if schema is True:
            return None
        if not isinstance(schema, dict):
            raise _refuse("a schema is an object")
        if "anyOf" in schema:
            self._check(schema, frozenset(("anyOf",)))
            return self.value(_items(schema, "anyOf")[0], depth + 1)
        if "$ref" in schema:
            self._check(schema, frozenset(("$ref",)))
            return self.value(self._resolve(schema["$ref"]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return _items(schema, "enum")[0]
        return self._typed(schema, depth)

    def _typed(self, schema: Schema, depth: int) -> object:
        kind = schema.get("type") or ("object" if "properties" in schema else None)
        if isinstance(kind, list) and kind:
            kind = kind[0]
        if not isinstance(kind, str) or kind not in _KEYWORDS:
            raise _refuse(f"type {str(kind)[:40]!r} is not known")
        self._check(schema, _KEYWORDS[kind] | {"type"})
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                count = _count(schema, "minItems", "maxItems", preferred=1, cap=_MAX_ITEMS)
                return [self.value(schema.get("items", True), depth + 1) for _ in range(count)]
            case "string":
                return self._string(schema)
            case "integer" | "number":
                return _number(schema, whole=kind == "integer")
            case "boolean":
                return True
            case _:
                return None

    def _object(self, schema: Schema, depth: int) -> dict[str, object]:
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise _refuse("properties is an object")
        names = schema.get("required", list(properties))
        if not isinstance(names, list):
            raise _refuse("required is a list")
        wanted = [name for name in properties if name in names]
        if len(wanted) != len(names):
            raise _refuse("a required property has no schema")
        return {name: self.value(properties[name], depth + 1) for name in wanted}

    def _string(self, schema: Schema) -> str:
        text = f"{next(self._words)} {next(self._words)}"
        length = _count(schema, "minLength", "maxLength", preferred=len(text), cap=_MAX_CHARS)
        while len(text) < length:
            text += " " + next(self._words)
        return text[:length]

    def _resolve(self, reference: object) -> object:
        path = str(reference).split("/")
        if len(path) != 3 or path[0] != "#" or path[1] not in ("$defs", "definitions"):
            raise _refuse("$ref leads to #/$defs only")
        definitions = cast("dict[str, object]", self._root).get(path[1], {})
        if not isinstance(definitions, dict) or path[2] not in definitions:
            raise _refuse("a $ref leads nowhere")
        return definitions[path[2]]

    def _check(self, schema: Schema, known: frozenset[str]) -> None:
        for keyword in schema:
            if keyword not in known and keyword not in _IGNORED:
                raise _refuse(f"the keyword {keyword[:40]!r} is not known here")


def _items(schema: Schema, keyword: str) -> list[object]:
    items = schema[keyword]
    if not isinstance(items, list) or not items:
        raise _refuse(f"{keyword} is a list with something in it")
    return items


def _bound(schema: Schema, keyword: str) -> float | None:
    value = schema.get(keyword)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refuse(f"{keyword} is a number")
    return value


def _count(schema: Schema, least: str, most: str, *, preferred: int, cap: int) -> int:
    low, high = _bound(schema, least) or 0, _bound(schema, most)
    count = max(low, preferred if high is None else min(preferred, high))
    if (high is not None and high < low) or count != int(count) or not 0 <= count <= cap:
        raise _refuse(f"{least} and {most} allow nothing that can be written")
    return int(count)


def _number(schema: Schema, *, whole: bool) -> float:
    low, high = _bound(schema, "minimum"), _bound(schema, "maximum")
    above, below = _bound(schema, "exclusiveMinimum"), _bound(schema, "exclusiveMaximum")
    floor = max((bound for bound in (low, above) if bound is not None), default=None)
    ceiling = min((bound for bound in (high, below) if bound is not None), default=None)
    if floor is None and ceiling is None:
        candidates: list[float] = [1]
    elif floor is None or ceiling is None:
        base = cast("float", ceiling if floor is None else floor)
        step = -1 if floor is None else 1
        candidates = [1, math.floor(base), math.floor(base) + step, base + step]
    else:
        candidates = [1, math.ceil(floor), math.floor(floor) + 1, (floor + ceiling) / 2, floor]
    for number in candidates:
        fits = (low is None or number >= low) and (high is None or number <= high)
        fits = fits and (above is None or number > above) and (below is None or number < below)
        if fits and (not whole or number == int(number)):
            return int(number) if number == int(number) else number
    raise _refuse("the bounds of a number allow nothing")
