"""Grammars that bound an output's text: what a JSON schema or pattern may be before an engine gets to see it.

Engines compile grammars by machines of their own, and clients check the outputs with validators of theirs;
some of these backtrack, recurse or fetch references. So only what all of them can take is let through.
"""

import json
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from parrot.core.limits import Limits
from parrot.core.locations import at
from parrot.core.transforms import compile_pattern
from parrot.errors import InvalidError
from parrot.types.sampling import Grammar
from parrot.wire.quoting import quoted
from parrot.wire.requests import OutputSpec, ToolOutput

MAX_SCHEMA_DEPTH = 16
TOOL_DEPTH = 8
"""Levels that the service itself puts around the schemas of tools."""
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_MAPS_OF_SCHEMAS = frozenset({"$defs", "definitions", "properties", "patternProperties", "dependentSchemas"})
_DATA = frozenset({"const", "default", "enum", "examples"})
_UNSUPPORTED = frozenset({"$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveRef"})
_PATTERN_PART = re.compile(
    r"\\.|\[\^?\]?(?:\[:\w+:\]|\\.|[^\]\\])*\]|[()]|[*+]|\{\d+,\}|\{\d+(?:,\d+)?\}|.", re.DOTALL
)


def compile_grammar(output: OutputSpec, limits: Limits) -> Grammar | None:
    """The grammar that an output asks for, if any; `param` of an error is relative: `schema` or `regex`.

    A schema is refused when it is empty, larger or deeper than allowed, recursive, or points outside itself.
    A pattern, in a schema or alone, is one that RE2 knows; in a schema it has no unbounded repetition within
    another, which a backtracking validator can take for ever to match.

    Raises:
        InvalidError: `grammar_unsupported`, or `invalid` when there is both a schema and a regex.
    """
    if output.schema_ is not None and output.regex is not None:
        raise InvalidError("an output is bounded by a schema or by a regex, not by both", param="regex")
    if output.regex is not None:
        with at("regex"):
            _check_pattern(output.regex, limits)
        return Grammar(kind="regex", source=output.regex)
    if output.schema_ is not None:
        with at("schema"):
            _check_depth(output.schema_, MAX_SCHEMA_DEPTH + TOOL_DEPTH * isinstance(output, ToolOutput))
            source = json.dumps(output.schema_, ensure_ascii=False, separators=(",", ":"))
            if len(source.encode()) > limits.max_grammar_bytes:
                raise _unsupported(f"a schema may have {limits.max_grammar_bytes:,} bytes")
            _check_schema(output.schema_, limits)
        or_text = isinstance(output, ToolOutput) and output.or_text
        return Grammar(kind="text_or_schema" if or_text else "schema", source=source)
    return None


def _check_schema(root: dict[str, object], limits: Limits) -> None:
    if not root:
        raise _unsupported("an empty schema bounds nothing; leave it out")
    for schema in _subschemas(root):
        _check_keywords(schema, limits)
    references: dict[str, list[str]] = {}
    todo = ["#"]
    while todo:
        reference = todo.pop()
        if reference not in references:
            references[reference] = list(_references(_resolve(root, reference)))
            todo.extend(references[reference])
    try:
        TopologicalSorter(references).prepare()
    except CycleError:
        raise _unsupported("a schema that contains itself by $ref is not supported") from None


def _check_depth(root: object, most: int) -> None:
    level = [root]
    for _ in range(most + 1):
        level = [child for node in level for child in _children(node)]
    if level:
        raise _unsupported(f"a schema may be nested {MAX_SCHEMA_DEPTH} levels deep")


def _children(node: object) -> list[object]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _subschemas(root: object) -> Iterator[dict[str, object]]:
    """Every schema within a schema, itself included; what is data or a name is left out."""
    todo = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo.extend(node)
        if not isinstance(node, dict):
            continue
        yield node
        for key, child in node.items():
            if key in _MAPS_OF_SCHEMAS and isinstance(child, dict):
                todo.extend(child.values())
            elif key not in _DATA:
                todo.append(child)


def _check_keywords(schema: dict[str, object], limits: Limits) -> None:
    types = schema.get("type", [])
    for name in types if isinstance(types, list) else [types]:
        if not isinstance(name, str) or name not in _TYPES:
            raise _unsupported(f"{quoted(name)} is not a JSON type")
    for keyword in _UNSUPPORTED & schema.keys():
        raise _unsupported(f"{keyword} is not supported; use $ref to #/$defs")
    patterns = [schema["pattern"]] if "pattern" in schema else []
    by_pattern = schema.get("patternProperties")
    for pattern in [*patterns, *(by_pattern if isinstance(by_pattern, dict) else [])]:
        if not isinstance(pattern, str):
            raise _unsupported("a pattern is a string")
        _check_pattern(pattern, limits)
        if _nests_repetition(pattern):
            raise _unsupported(f"the pattern {quoted(pattern)} repeats without bound within a repetition")


def _references(root: object) -> Iterator[str]:
    for schema in _subschemas(root):
        reference = schema.get("$ref")
        if reference is not None:
            if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
                raise _unsupported("a $ref points into its own schema: #/$defs/…")
            yield reference


def _resolve(root: object, reference: str) -> object:
    node = root
    for written in reference.split("/")[1:]:
        key = written.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or key not in node:
            raise _unsupported(f"the $ref {quoted(reference)} leads nowhere")
        node = node[key]
    return node


def _check_pattern(pattern: str, limits: Limits) -> None:
    try:
        compile_pattern(pattern, limits, max_bytes=limits.max_grammar_bytes)
    except InvalidError as error:
        raise _unsupported(error.message) from None


def _nests_repetition(pattern: str) -> bool:
    """Whether something that repeats without bound stands within something else that does."""
    outer: list[bool] = []
    repeats = atom_repeats = False
    for part in _PATTERN_PART.findall(pattern):
        if part == "(":
            outer.append(repeats)
            repeats = atom_repeats = False
        elif part == ")":
            atom_repeats = repeats
            repeats = outer.pop() or repeats
        elif part in {"*", "+"} or (part[0] == "{" and part.endswith(",}")):
            if atom_repeats:
                return True
            repeats = True
        elif not (part[0] == "{" and part.endswith("}")):
            atom_repeats = False
    return False


def _unsupported(message: str) -> InvalidError:
    return InvalidError(message, code="grammar_unsupported")
