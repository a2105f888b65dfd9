"""Grammars: what may bound an output, and what is refused before an engine sees it."""

import json
import time

import pytest

from parrot.core.grammars import compile_grammar
from parrot.core.limits import Limits
from parrot.errors import InvalidError
from parrot.types.sampling import Grammar
from parrot.wire.requests import OutputSpec

LIMITS = Limits()


def bounded(**spec: object) -> OutputSpec:
    return OutputSpec.model_validate(spec)


def nested(depth: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def test_a_schema_is_handed_on_as_json_text() -> None:
    schema: dict[str, object] = {
        "type": "object",
        "properties": {
            "type": {"type": ["string", "null"], "pattern": "^[a-z]+$"},
            "$ref": {"$ref": "#/$defs/a~1b"},
            "twice": {"$ref": "#/$defs/a~1b"},
        },
        "$defs": {"a/b": {"enum": [{"type": "foo", "$ref": "http://x"}]}},
        "required": ["type"],
    }
    grammar = compile_grammar(bounded(schema=schema), LIMITS)
    assert grammar is not None
    assert (grammar.kind, json.loads(grammar.source)) == ("schema", schema)


def test_a_regex_is_handed_on_as_it_is() -> None:
    assert compile_grammar(OutputSpec(regex=r"(- .*\n)+"), LIMITS) == Grammar(
        kind="regex", source=r"(- .*\n)+"
    )


def test_an_output_without_either_is_free() -> None:
    assert compile_grammar(OutputSpec(), LIMITS) is None


def test_an_output_with_both_is_refused() -> None:
    with pytest.raises(InvalidError) as caught:
        compile_grammar(bounded(schema={"type": "string"}, regex="a"), LIMITS)
    assert (caught.value.code, caught.value.param) == ("invalid", "regex")


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "foo"},
        {"type": 7},
        {"properties": {"a": {"type": ["string", "foo"]}}},
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"next": {"$ref": "#/$defs/a"}}}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"properties": {"a": {"items": {"$ref": "#/properties"}}}},
        {"$ref": "http://169.254.169.254/schema"},
        {"$ref": "other.json"},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": 7},
        {"$id": "http://example.org/x", "type": "string"},
        {"type": "string", "pattern": "(a+)+b"},
        {"type": "string", "pattern": "(?=x)"},
        {"type": "string", "pattern": 7},
        {"patternProperties": {"([a-z]*x){2,}": {"type": "string"}}},
        {"enum": ["x" * 20_000]},
        nested(17),
        nested(900),
    ],
)
def test_a_schema_that_an_engine_might_choke_on_is_refused(schema: dict[str, object]) -> None:
    with pytest.raises(InvalidError) as caught:
        compile_grammar(bounded(schema=schema), LIMITS)
    assert (caught.value.code, caught.value.param) == ("grammar_unsupported", "schema")


def test_a_schema_of_any_depth_is_refused_quickly() -> None:
    begun = time.process_time()
    with pytest.raises(InvalidError):
        compile_grammar(OutputSpec.model_construct(schema_=nested(30_000)), LIMITS)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("pattern", ["(", "(?<=x)a", "a" * 20_000, "(((a{1000}){1000}){1000})"])
def test_a_regex_that_is_not_re2_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidError) as caught:
        compile_grammar(OutputSpec(regex=pattern), LIMITS)
    assert (caught.value.code, caught.value.param) == ("grammar_unsupported", "regex")


@pytest.mark.parametrize(
    "pattern", [r"(a+)?b+", r"[(+]*x*", r"(a{2,3})+", r"\(a+\)+", r"(a|b)*c+", r"(?:a*b){2}"]
)
def test_a_pattern_without_nested_repetition_is_taken(pattern: str) -> None:
    assert compile_grammar(bounded(schema={"type": "string", "pattern": pattern}), LIMITS) is not None
