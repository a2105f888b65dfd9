from typing import Any

import pytest

from parrot.errors import InvalidError, ParrotError, TemplateError
from parrot.wire.requests import SamplingSpec, SessionCreate, SetVariable, SubmitCalls, Wire
from parrot.wire.validate import validate


def refusal(model: type[Wire], value: object) -> ParrotError:
    with pytest.raises(ParrotError) as caught:
        validate(model, value)
    return caught.value


def with_parameter(parameter: object, name: str = "text") -> object:
    good = {"template": "x {{o}}", "parameters": {}}
    return {"calls": [good, good, good, {"template": "x", "parameters": {name: parameter}}]}


def with_transform(transform: object) -> object:
    return with_parameter({"output": {"transforms": [{"type": "strip"}, transform]}})


@pytest.mark.parametrize(
    ("parameter", "code", "path"),
    [
        ({"value": 5}, "invalid", ".value"),
        ({"value": {}}, "invalid", ".value"),
        ({"value": "a\x00"}, "nul_not_allowed", ".value"),
        ({"value": "\ud800"}, "invalid_unicode", ".value"),
        ({"value": "x", "cache_salt": "y"}, "unknown_field", ".cache_salt"),
        ({"value": "x", "variable": "y"}, "bad_parameter", ""),
        ({}, "bad_parameter", ""),
        (None, "bad_parameter", ""),
        (7, "bad_parameter", ""),
        ("x", "bad_parameter", ""),
        ({"variable": ""}, "invalid", ".variable"),
        ({"output": None}, "invalid", ".output"),
        ({"output": {"variable": "no name"}}, "bad_name", ".output.variable"),
        ({"output": {"sampling": {"max_token": 1}}}, "unknown_field", ".output.sampling.max_token"),
        ({"output": {"sampling": {"stop": [""]}}}, "invalid", ".output.sampling.stop[0]"),
        ({"output": {"sampling": {"stop": ["x"] * 9}}}, "too_many", ".output.sampling.stop"),
        ({"output": {"transforms": [{"type": "strip"}] * 9}}, "too_many", ".output.transforms"),
    ],
)
def test_a_fault_in_a_parameter_is_told_with_its_path(parameter: object, code: str, path: str) -> None:
    error = refusal(SubmitCalls, with_parameter(parameter))
    assert (error.code, error.param) == (code, f"calls[3].parameters.text{path}")
    assert isinstance(error, InvalidError)


@pytest.mark.parametrize("name", ["value", "output", "variable", "template"])
def test_placeholders_called_like_fields_do_not_confuse_the_path(name: str) -> None:
    error = refusal(SubmitCalls, with_parameter({"value": 5}, name))
    assert error.param == f"calls[3].parameters.{name}.value"


@pytest.mark.parametrize(
    ("transform", "code", "path"),
    [
        ({"type": "exec"}, "bad_transform", ""),
        ({}, "bad_transform", ""),
        ("strip", "invalid", ""),
        ({"type": "regex"}, "missing_field", ".pattern"),
        ({"type": "regex", "pattern": 1}, "invalid", ".pattern"),
        ({"type": "regex", "pattern": "a", "group": 1.5}, "invalid", ".group"),
        ({"type": "regex", "pattern": "a", "flags": "i"}, "unknown_field", ".flags"),
    ],
)
def test_a_fault_in_a_transform_is_told_without_the_name_of_its_kind(
    transform: object, code: str, path: str
) -> None:
    error = refusal(SubmitCalls, with_transform(transform))
    assert (error.code, error.param) == (code, f"calls[3].parameters.text.output.transforms[1]{path}")


def test_a_parameter_of_two_kinds_is_a_template_error() -> None:
    error = refusal(SubmitCalls, with_parameter({"value": "a", "variable": "b"}))
    assert isinstance(error, TemplateError)


@pytest.mark.parametrize("value", [[], "x", None, 42, True])
def test_a_body_that_is_not_an_object_is_invalid(value: object) -> None:
    error = refusal(SubmitCalls, value)
    assert (error.code, error.param) == ("invalid", None)
    assert "the body must be an object" in error.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("max_tokens", value) for value in (True, "5", 5.0, 5.5, 0, -1, 10**9, 2**63, None)),
        *(("temperature", value) for value in (True, "1", -1, 1e9, None, float("inf"), float("nan"))),
        *(("top_p", value) for value in (0, 1.1)),
        ("top_k", -2),
        *(("seed", value) for value in (-1, 2**64)),
        ("ignore_eos", 1),
    ],
)
def test_sampling_out_of_range_or_of_another_type_is_invalid(field: str, value: object) -> None:
    error = refusal(SamplingSpec, {field: value})
    assert (error.code, error.param) == ("invalid", field)


@pytest.mark.parametrize("field", ["max_token", "api_base", "__class__", "n", "best_of"])
def test_unknown_fields_are_named(field: str) -> None:
    error = refusal(SamplingSpec, {field: 1})
    assert (error.code, error.param) == ("unknown_field", field)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"objective": "admin"}, "invalid", "objective"),
        ({"name": "x" * 307_200}, "invalid", "name"),
        ({"name": "a\u202eb"}, "bad_name", "name"),
        ({"metadata": {"k": "v" * 300}}, "invalid", "metadata.k"),
        ({"metadata": {"a\u200b": "v"}}, "bad_name", "metadata.'a\\u200b'"),
        ({"metadata": {str(i): "" for i in range(17)}}, "too_many", "metadata"),
        ({"deadline_s": 0}, "invalid", "deadline_s"),
        ({"deadline_s": 1e9}, "invalid", "deadline_s"),
        ({"tenant_id": "other"}, "unknown_field", "tenant_id"),
    ],
)
def test_a_fault_in_a_session_is_told_with_its_path(body: object, code: str, param: str) -> None:
    error = refusal(SessionCreate, body)
    assert (error.code, error.param) == (code, param)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_field", "calls"),
        ({"calls": []}, "invalid", "calls"),
        ({"calls": [1]}, "invalid", "calls[0]"),
        ({"calls": [{"parameters": {"a b": {"value": ""}}}]}, "bad_name", "calls[0].parameters.'a b'"),
        ({"calls": [{"messages": [{"role": "user"}]}]}, "missing_field", "calls[0].messages[0].content"),
        ({"calls": [{"name": "var_" + "0" * 32}]}, "bad_name", "calls[0].name"),
    ],
)
def test_a_fault_in_a_submission_is_told_with_its_path(body: object, code: str, param: str) -> None:
    error = refusal(SubmitCalls, body)
    assert (error.code, error.param) == (code, param)


HOSTILE: list[Any] = ["<script>\x1b[31m\r\n" * 10_000, "\ud800" * 500, "🦜" * 5000]


@pytest.mark.parametrize("text", HOSTILE)
def test_little_of_the_input_is_repeated_and_that_escaped(text: str) -> None:
    for body in ({"objective": text}, {text: 1}, {"name": text}):
        error = refusal(SessionCreate, body)
        shown = error.message + (error.param or "")
        assert shown.isascii() or set(shown) - set(map(chr, range(128))) == {"…"}
        assert shown.replace("…", "").isprintable()
        assert len(error.message) <= 450
        assert len(error.param or "") <= 200


def test_a_valid_body_becomes_its_model() -> None:
    assert validate(SetVariable, {"value": "{{x}} <|im_end|>"}).value == "{{x}} <|im_end|>"
