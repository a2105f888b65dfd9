"""From a decoded body to a request model, and from pydantic's errors to ours."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from parrot.errors import CODES, ParrotError, error_from_code
from parrot.wire.quoting import field_path, quoted

M = TypeVar("M", bound=BaseModel)

_CODE_OF_TYPE = {
    "extra_forbidden": "unknown_field",
    "missing": "missing_field",
    "string_unicode": "invalid_unicode",
    "too_long": "too_many",
}
_CODE_OF_DISCRIMINATOR = {"_parameter_kind()": "bad_parameter", "'type'": "bad_transform"}
"""A union that none of its members fits, by what tells the members apart."""

_MESSAGE_OF_TYPE = {
    "extra_forbidden": "is a field that does not exist",
    "missing": "must be given",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "tuple_type": "must be an array",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number, written without a point",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} item",
    "literal_error": "must be {expected}",
}
_MESSAGE_OF_CODE = {
    "bad_name": "is not a name that can be used here",
    "nul_not_allowed": "holds U+0000",
    "invalid_unicode": "holds a lone surrogate",
    "bad_parameter": 'must be an object with exactly one of "value", "variable" and "output"',
    "bad_transform": "is not a transform that is known",
}

Location = tuple[str | int, ...]


def validate(model: type[M], value: object) -> M:
    """`value`, as decoded from JSON, as an instance of `model`.

    Raises:
        InvalidError: or the subclass that the code belongs to, for the first fault; `param` is the path of
            the field, and at most 200 characters of the input are repeated, escaped.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
    raise _translated(value, fault)


def _translated(body: object, fault: Mapping[str, Any]) -> ParrotError:
    kind, given = fault["type"], fault["input"]
    context = fault.get("ctx", {})
    if kind == "too_long" and isinstance(given, str):
        kind = "string_too_long"
    code = _code(kind, context)
    path = field_path(_find(body, fault["loc"], given, missing=kind == "missing"))
    said = _MESSAGE_OF_CODE.get(code) or _MESSAGE_OF_TYPE.get(kind, "has a value that is not allowed")
    message = f"{path or 'the body'} {said.format_map(context) if '{' in said else said}"
    if kind not in ("missing", "extra_forbidden"):
        message += f"; it is {quoted(given)}"
    return error_from_code(code, message, param=path)


def _code(kind: str, context: Mapping[str, Any]) -> str:
    if kind == "value_error" and str(context["error"]) in CODES:
        return str(context["error"])
    if kind.startswith("union_tag_"):
        return _CODE_OF_DISCRIMINATOR.get(context["discriminator"], "invalid")
    return _CODE_OF_TYPE.get(kind, "invalid")


def _find(body: object, location: Location, given: object, *, missing: bool) -> Location:
    """The place in `body` that pydantic's `location` speaks of.

    `location` also names the members of unions that pydantic went through, and a member may be called the
    same as a field. So the place is the longest part of `location` that leads through `body` to the very
    object that pydantic complains of; when a field is missing, to the object that lacks it.
    """
    if location and location[-1] == "[key]":
        return location[:-1]
    steps, last = (location[:-1], location[-1:]) if missing else (location, ())
    ways = (way for way, end in _ways(body, steps) if end is given)
    return (*max(ways, key=len, default=steps), *last)


def _ways(node: object, steps: Sequence[str | int]) -> Iterator[tuple[Location, object]]:
    """Every path through `node` whose names are among `steps` in their order, with its end."""
    if not steps:
        yield (), node
        return
    first, rest = steps[0], steps[1:]
    child = _child(node, first)
    if child is not None:
        for way, end in _ways(child[0], rest):
            yield (first, *way), end
    if isinstance(first, str):
        yield from _ways(node, rest)


def _child(node: object, name: str | int) -> tuple[object] | None:
    if isinstance(node, dict) and name in node:
        return (node[name],)
    if isinstance(node, list | tuple) and isinstance(name, int) and name < len(node):
        return (node[name],)
    return None
