"""Transforms: what is refused at submission, and what happens when they run."""

import time
from collections.abc import Mapping

import pytest
from pydantic import TypeAdapter

from parrot.core.limits import Limits
from parrot.core.transforms import apply_transforms, compile_transforms
from parrot.errors import CallError, InvalidError, ParrotError
from parrot.types.program import Transform
from parrot.wire.requests import TransformSpec

LIMITS = Limits()
SPEC: TypeAdapter[TransformSpec] = TypeAdapter(TransformSpec)


Spec = Mapping[str, object]


def compiled(*specs: Spec, limits: Limits = LIMITS) -> tuple[Transform, ...]:
    return compile_transforms([SPEC.validate_python(spec) for spec in specs], limits)


def run(value: str, *specs: Spec, limits: Limits = LIMITS) -> str:
    return apply_transforms(compiled(*specs), value, limits)


def regex(pattern: str, **more: object) -> dict[str, object]:
    return {"type": "regex", "pattern": pattern, **more}


def pointer(path: str) -> dict[str, object]:
    return {"type": "json", "pointer": path}


@pytest.mark.parametrize(
    ("value", "spec", "expected"),
    [
        (" \n x y\t", {"type": "strip"}, "x y"),
        ("id: 42, id: 43", regex(r"id: (\d+)", group=1), "42"),
        ("id: 42", regex(r"id: (?P<number>\d+)", group="number"), "42"),
        ("id: 42", regex(r"\d+"), "42"),
        ("none", regex(r"\d+", default="0"), "0"),
        ("b", regex(r"(a)|b", group=1, default="-"), "-"),
        ("größe: ä", regex(r"größe: (.)", group=1), "ä"),
        ("a" * 50 + "!", regex(r"(a+)+$", default="none"), "none"),
        ("x", {"type": "template", "text": "- {{value}} {{ value }} {{{{value}}"}, "- x x {{value}}"),
        ("{{value}}", {"type": "template", "text": "[{{value}}]"}, "[{{value}}]"),
        ('{"a":["x",{"b/c":1.5,"~":null}]}', pointer("/a/0"), "x"),
        ('{"a":["x",{"b/c":1.5,"~":null}]}', pointer("/a/1/b~1c"), "1.5"),
        ('{"a":["x",{"b/c":1.5,"~":null}]}', pointer("/a/1/~0"), "null"),
        (' {"a": [1, "é"]} ', pointer(""), '{"a":[1,"é"]}'),
        ('{"": {"01": true}}', pointer("//01"), "true"),
        ('```json\n{"a": 1}\n```', pointer("/a"), "1"),
        ('\n```\n{"a": "```"}\n```\n', pointer("/a"), "```"),
        ("~~~~JSON\n[7]\n~~~~", pointer("/0"), "7"),
    ],
)
def test_a_transform_makes_the_value_it_should(value: str, spec: Spec, expected: str) -> None:
    assert run(value, spec) == expected


def test_transforms_run_one_after_the_other() -> None:
    specs = (pointer("/code"), {"type": "strip"}, {"type": "template", "text": "<{{value}}>"})
    assert run('```json\n{"code": " x = 1 "}\n```', *specs) == "<x = 1>"


@pytest.mark.parametrize(
    ("spec", "code", "param"),
    [
        (regex("(?=x)"), "regex_unsupported", "pattern"),
        (regex(r"(a)\1"), "regex_unsupported", "pattern"),
        (regex("("), "regex_unsupported", "pattern"),
        (regex("(((a{1000}){1000}){1000})"), "regex_too_large", "pattern"),
        (regex(r"\pN{1,1000}"), "regex_too_large", "pattern"),
        (regex("a" * 513), "regex_too_large", "pattern"),
        (regex("(a)", group=7), "bad_transform", "group"),
        (regex("(a)", group=-1), "bad_transform", "group"),
        (regex("(?P<x>a)", group="y"), "bad_transform", "group"),
        (pointer("a"), "bad_transform", "pointer"),
        (pointer("/a~2"), "bad_transform", "pointer"),
        (pointer("/" + "a" * 10_000), "bad_transform", "pointer"),
        ({"type": "template", "text": "no place"}, "bad_transform", "text"),
        ({"type": "template", "text": "{{value}} {{other}}"}, "bad_transform", "text"),
        ({"type": "template", "text": "{{output:value}}"}, "bad_transform", "text"),
        ({"type": "template", "text": "{{value"}, "bad_transform", "text"),
        ({"type": "template", "text": "{{value}}" * 129}, "bad_transform", "text"),
    ],
)
def test_a_bad_transform_is_refused_at_submission(spec: Spec, code: str, param: str) -> None:
    with pytest.raises(InvalidError) as caught:
        compiled({"type": "strip"}, spec)
    assert (caught.value.code, caught.value.param) == (code, f"transforms[1].{param}")
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("value", "spec", "code"),
    [
        ("abc", regex(r"\d"), "transform_no_match"),
        ("b", regex(r"(a)|b", group=1), "transform_no_match"),
        ("not json", pointer(""), "transform_bad_json"),
        ('{"a": ', pointer("/a"), "transform_bad_json"),
        ("NaN", pointer(""), "transform_bad_json"),
        ("[1e400]", pointer(""), "transform_bad_json"),
        ("[" * 100_000, pointer(""), "transform_bad_json"),
        ('{"a":1,"a":2}', pointer("/a"), "transform_bad_json"),
        ("1" * 5000, pointer(""), "transform_bad_json"),
        (r'"\ud800"', pointer(""), "transform_bad_json"),
        ('```json\n{"a": 1}', pointer("/a"), "transform_bad_json"),
        ('{"a":[1]}', pointer("/a/-1"), "transform_missing"),
        ('{"a":[1]}', pointer("/a/-"), "transform_missing"),
        ('{"a":[1]}', pointer("/a/01"), "transform_missing"),
        ('{"a":[1]}', pointer("/a/1"), "transform_missing"),
        ('{"a":[1]}', pointer("/a/99999999999999999999"), "transform_missing"),
        ('{"a":[1]}', pointer("/__class__"), "transform_missing"),
        ('{"a":"x"}', pointer("/a/0"), "transform_missing"),
    ],
)
def test_a_transform_that_cannot_be_done_fails_the_value(value: str, spec: Spec, code: str) -> None:
    begun = time.process_time()
    with pytest.raises(CallError) as caught:
        run(value, spec)
    assert caught.value.code == code
    assert time.process_time() - begun < 1


def test_a_value_may_not_grow_beyond_its_limit() -> None:
    specs = ({"type": "template", "text": "{{value}}{{value}}"},) * 8
    with pytest.raises(CallError) as grown:
        run("x" * 10_000, *specs)
    with pytest.raises(CallError) as large:
        run("é" * 6, limits=Limits(max_value_bytes=10))
    assert (grown.value.code, large.value.code) == ("value_too_large", "value_too_large")
    assert large.value.data == {"limit_bytes": 10}


def test_matching_is_bounded_for_any_pattern_and_text() -> None:
    begun = time.process_time()
    for pattern, text in (
        (r"(x?){1000}y", "x" * 1_000_000),
        (r"a*", "b" * 1_000_000),
        (r"(.*)(.*)z", "a" * 500_000),
    ):
        try:
            run(text, regex(pattern))
        except CallError as error:
            outcome = error.code
        else:
            outcome = "matched"
        assert outcome in {"value_too_large", "transform_no_match", "matched"}
    assert time.process_time() - begun < 3


def test_patterns_are_compiled_once_and_few_are_kept() -> None:
    from parrot.core import transforms

    for i in range(transforms.MAX_CACHED_PATTERNS + 10):
        compiled(regex(f"a{i}"))
    before = transforms._compiled.cache_info()
    run(f"a{i}", regex(f"a{i}"))
    after = transforms._compiled.cache_info()
    assert after.currsize == transforms.MAX_CACHED_PATTERNS
    assert after.misses == before.misses


def test_an_error_names_no_part_of_the_value() -> None:
    with pytest.raises(ParrotError) as caught:
        run("secret", regex(r"\d"))
    assert "secret" not in caught.value.message
