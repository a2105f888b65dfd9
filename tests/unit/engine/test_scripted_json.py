"""JSON values made for a schema."""

import json
from itertools import cycle

import pytest

from parrot.engine.scripted_json import sample_json
from parrot.errors import InvalidError


def sample(schema: object) -> object:
    return json.loads(sample_json(json.dumps(schema), cycle(["word", "other"])))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "word other"),
        ({"type": "string", "maxLength": 3}, "wor"),
        ({"type": "string", "minLength": 12}, "word other word"[:12]),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": ["string", "null"], "maxLength": 4}, "word"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
        ({"type": "array", "maxItems": 0}, []),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": 7}, 7),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, None),
        ({"properties": {"a": {"type": "integer"}}}, {"a": 1}),
        (
            {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}, "required": ["b"]},
            {"b": 2},
        ),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"const": "y"}}}, "y"),
        (True, None),
    ],
)
def test_the_value_is_the_small_one_that_the_schema_allows(schema: object, value: object) -> None:
    assert sample(schema) == value


@pytest.mark.parametrize(
    "schema",
    [
        [],
        "x",
        {"type": "foo"},
        {},
        {"type": "string", "pattern": "(a+)+b"},
        {"type": "integer", "multipleOf": 3},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"type": "integer", "minimum": "3"},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "minLength": -1, "maxLength": -1},
        {"type": "object", "required": ["a"]},
        {"type": "object", "properties": []},
        {"$ref": "http://127.0.0.1/schema"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"enum": []},
        {"allOf": [{"type": "string"}]},
        {"oneOf": [{"type": "string"}]},
    ],
)
def test_a_schema_that_says_more_than_is_understood_is_refused(schema: object) -> None:
    with pytest.raises(InvalidError) as refused:
        sample(schema)
    assert refused.value.code == "grammar_unsupported"


@pytest.mark.parametrize(
    "source", ["{", "[" * 100_000, '{"type": "array", "items": ' * 300 + "{}" + "}" * 300]
)
def test_what_is_no_schema_text_is_refused(source: str) -> None:
    with pytest.raises(InvalidError) as refused:
        sample_json(source, cycle(["word"]))
    assert refused.value.code == "grammar_unsupported"
