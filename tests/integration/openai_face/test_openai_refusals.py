"""What the OpenAI-compatible routes refuse, and how they say so."""

import json
import re
from typing import Any

import pytest
from http_harness import Harness
from openai_streams import CHAT, COMPLETIONS, complete, user

pytestmark = pytest.mark.asyncio(loop_scope="module")


def refusal(answer: Any) -> dict[str, Any]:
    """The inside of OpenAI's envelope, which must be well formed."""
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.content) <= 4096
    error: dict[str, Any] = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return error


SCHEMA_ROWS: list[tuple[str, object]] = [
    ("a cycle", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
    ("a reference elsewhere", {"$ref": "http://127.0.0.1:1/schema.json"}),
    ("nested repetition", {"type": "string", "pattern": "(a+)+b"}),
    ("no JSON type", {"type": "foo"}),
    ("nothing", {}),
]

COMPLETION_ROWS: list[tuple[str, dict[str, object], str | None]] = [
    # row of the catalogue, fields, field at fault
    ("43", {"max_tokens": "5"}, "max_tokens"),
    ("43", {"max_tokens": 5.0}, "max_tokens"),
    ("44", {"max_token": 5}, "max_token"),
    ("44", {"api_base": "http://a"}, "api_base"),
    ("31", {"cache_salt": "x"}, "cache_salt"),
    ("90", {"max_tokens": 0}, "max_tokens"),
    ("90", {"max_tokens": -1}, "max_tokens"),
    ("90", {"max_tokens": 10**9}, "max_tokens"),
    ("90", {"max_tokens": 4, "min_tokens": 5}, "min_tokens"),
    ("91", {"n": 0}, "n"),
    ("91", {"n": 1_000_000}, "n"),
    ("91", {"n": 2, "best_of": 1}, "best_of"),
    ("91", {"best_of": 2}, "best_of"),
    ("92", {"temperature": -1}, "temperature"),
    ("92", {"temperature": 1e9}, "temperature"),
    ("92", {"temperature": None}, "temperature"),
    ("92", {"top_p": 0}, "top_p"),
    ("92", {"top_p": 1.1}, "top_p"),
    ("92", {"top_k": -2}, "top_k"),
    ("92", {"min_p": 2}, "min_p"),
    ("93", {"frequency_penalty": 100}, "frequency_penalty"),
    ("93", {"presence_penalty": -100}, "presence_penalty"),
    ("93", {"repetition_penalty": 0}, "repetition_penalty"),
    ("93", {"frequency_penalty": 2.5}, "frequency_penalty"),
    ("94", {"logprobs": 10**6}, "logprobs"),
    ("94", {"prompt_logprobs": -1}, "prompt_logprobs"),
    ("94", {"prompt_logprobs": 1}, "prompt_logprobs"),
    ("95", {"stop": ["x"] * 1000}, "stop"),
    ("95", {"stop": ""}, "stop"),
    ("95", {"stop": [""]}, "stop"),
    ("95", {"stop": "x" * 10_240}, "stop"),
    ("96", {"logit_bias": {"-1": 1}}, "logit_bias"),
    ("96", {"logit_bias": {"abc": 1}}, "logit_bias"),
    ("96", {"logit_bias": {"999999999": 1}}, "logit_bias"),
    ("96", {"stop_token_ids": [-1]}, "stop_token_ids"),
    ("96", {"stop_token_ids": [2**31]}, "stop_token_ids"),
    ("96", {"bad_words": ["x"]}, "bad_words"),
    ("97", {"seed": -1}, "seed"),
    ("97", {"seed": 2**64}, "seed"),
    ("99", {"priority": "admin"}, "priority"),
    ("99", {"service_tier": "admin"}, "service_tier"),
    ("-", {"suffix": "and so on"}, "suffix"),
    ("-", {"echo": True, "logprobs": 1}, "logprobs"),
    ("-", {"truncate_prompt_tokens": 10}, "truncate_prompt_tokens"),
    ("-", {"stream_options": {"include_usage": True}}, "stream_options"),
    ("-", {"prompt": ""}, None),
    ("-", {"prompt": []}, "prompt"),
    ("-", {"prompt": [[]]}, "prompt"),
    ("-", {"prompt": [2**31 - 1]}, "prompt"),
    ("-", {"prompt": ["x"] * 1000}, "prompt"),
    ("-", {"prompt": 5}, "prompt"),
]


def _row_name(value: object) -> str:
    return json.dumps(value)[:40] if isinstance(value, dict) else str(value)


@pytest.mark.parametrize(("row", "fields", "param"), COMPLETION_ROWS, ids=_row_name)
async def test_what_is_wrong_is_refused_by_name(
    http_service: Harness, row: str, fields: dict[str, object], param: str | None
) -> None:
    answer = await http_service.client.post(COMPLETIONS, json={"prompt": "x", **fields})
    error = refusal(answer)
    assert answer.status_code == 422, (row, answer.text)
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"].startswith(param)


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": "\n"},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1, "logit_bias": {}},
        {
            "best_of": 1,
            "suffix": None,
            "logprobs": None,
            "seed": None,
            "stop": None,
            "n": None,
            "max_tokens": None,
        },
        {"top_k": -1, "min_tokens": 2, "skip_special_tokens": True, "stop_token_ids": []},
        {"service_tier": "flex", "priority": 3, "user": "u", "store": False, "safety_identifier": "s"},
        {"prompt_cache_key": "k", "stream": False, "stream_options": None, "add_special_tokens": False},
    ],
    ids=_row_name,
)
async def test_what_changes_nothing_is_taken(http_service: Harness, fields: dict[str, object]) -> None:
    answer = await http_service.client.post(COMPLETIONS, json={"prompt": "x", "max_tokens": 4} | fields)
    assert answer.status_code == 200, answer.text


async def test_row_98_a_model_that_is_not_served_is_not_found(http_service: Harness) -> None:
    for name in ("gpt-9", "../../etc/passwd", "meta-llama/Llama-3-8B"):
        for path, body in ((COMPLETIONS, {"prompt": "x"}), (CHAT, {"messages": user("x")})):
            answer = await http_service.client.post(path, json={"model": name, **body})
            assert (answer.status_code, refusal(answer)["code"]) == (404, "model_not_found")


async def test_a_prompt_beyond_the_window_is_refused_with_both_numbers(http_service: Harness) -> None:
    for path, body in (
        (COMPLETIONS, {"prompt": "word " * 5000}),
        (CHAT, {"messages": user("word " * 5000)}),
        (CHAT, {"messages": user("word " * 4000), "max_tokens": 500}),
    ):
        answer = await http_service.client.post(path, json=body)
        error = refusal(answer)
        assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
        assert "4,096" in error["message"]
        assert re.search(r"prompt has [45],0\d\d tokens", error["message"])


@pytest.mark.parametrize(("what", "schema"), SCHEMA_ROWS, ids=[name for name, _ in SCHEMA_ROWS])
async def test_row_101_a_format_that_cannot_be_followed_is_refused(
    http_service: Harness, what: str, schema: object
) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = await http_service.client.post(
        CHAT, json={"messages": user("x"), "response_format": response_format}
    )
    assert answer.status_code == 422, what
    assert refusal(answer)["param"] == "response_format"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0]",
        ),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"prompt": "x"}, "prompt"),
    ],
    ids=_row_name,
)
async def test_what_is_wrong_in_a_chat_is_refused_by_name(
    http_service: Harness, fields: dict[str, object], param: str
) -> None:
    answer = await http_service.client.post(CHAT, json={"messages": user("x"), **fields})
    assert answer.status_code == 422, answer.text
    assert refusal(answer)["param"].startswith(param)


async def test_a_stream_that_cannot_begin_is_an_ordinary_refusal(http_service: Harness) -> None:
    body = {"prompt": "word " * 5000, "stream": True}
    answer = await http_service.client.post(COMPLETIONS, json=body)
    assert (answer.status_code, refusal(answer)["code"]) == (400, "context_length_exceeded")


async def test_bodies_and_keys_are_checked_as_everywhere(http_service: Harness) -> None:
    client = http_service.client
    no_json = await client.post(COMPLETIONS, content=b"{", headers={"Content-Type": "application/json"})
    assert (no_json.status_code, refusal(no_json)["code"]) == (400, "bad_json")
    form = await client.post(COMPLETIONS, data={"prompt": "x"})
    assert (form.status_code, refusal(form)["code"]) == (415, "unsupported_media_type")
    stranger = await client.post(CHAT, json={}, headers={"Authorization": "Bearer no"})
    assert (stranger.status_code, refusal(stranger)["code"]) == (401, "invalid_api_key")
    assert refusal(stranger)["type"] == "authentication_error"
    wrong = await client.get(COMPLETIONS)
    assert (wrong.status_code, refusal(wrong)["code"]) == (405, "method_not_allowed")
    await complete(http_service, "Still there")
    await http_service.check_canary()
