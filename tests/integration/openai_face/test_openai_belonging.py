"""Requests that say what they are a part of, over a socket."""

import asyncio
from typing import Any

import pytest
from http_harness import Harness
from openai_streams import CHAT, ask, complete, user

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = " ".join(f"rule {number}" for number in range(45))
MARK = {"mode": "explicit"}


def marked(text: str) -> list[dict[str, Any]]:
    """A content whose first part ends where what comes again ends."""
    return [
        {"type": "text", "text": RULES, "prompt_cache_breakpoint": MARK},
        {"type": "text", "text": text},
    ]


async def test_what_is_marked_is_shared_to_the_token(http_service: Harness) -> None:
    first = await ask(http_service, CHAT, messages=user(marked(" and {{one}}")), max_tokens=4)
    second = await ask(http_service, CHAT, messages=user(marked(" but two")), max_tokens=4)
    tokenizer = http_service.service.requests.model(None).tokenizer
    before = tokenizer.apply_chat_template([{"role": "user", "content": "#"}], add_generation_prompt=True)
    num_markup = len(tokenizer.encode(before.partition("#")[0], markup=True))
    expected = num_markup + len(tokenizer.encode(RULES))
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == expected
    assert expected % 32 != 0
    assert first["usage"]["prompt_tokens"] > expected


async def test_marks_are_understood_in_responses_and_beyond_the_last_few_passed_over(
    http_service: Harness,
) -> None:
    part = {"type": "input_text", "text": "word ", "prompt_cache_breakpoint": MARK | {"ttl": "30m"}}
    response = await ask(
        http_service,
        "/v1/responses",
        input=[{"role": "user", "content": [part] * 40}],
        prompt_cache_options={"mode": "explicit", "ttl": "12h"},
    )
    plain = await ask(http_service, "/v1/responses", input="word " * 40)
    assert response["status"] == "completed"
    assert response["usage"]["input_tokens"] >= plain["usage"]["input_tokens"]


async def test_a_requests_application_is_seen_while_it_runs(http_service: Harness) -> None:
    headers = {"X-Dynamo-Session-ID": "run-7", "X-Dynamo-Parent-Session-ID": "run-1"}
    body = {"prompt": "Talk", "max_tokens": 4000, "ignore_eos": True, "stream": True, "user": "u"}
    client = http_service.client
    async with client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
        assert answer.status_code == 200
        sessions = (await client.get("/v1/sessions")).json()["sessions"]
    assert [session["metadata"] for session in sessions] == [{"user": "u", "session": "run-7"}]


async def test_requests_of_a_group_are_wanted_together(http_service: Harness) -> None:
    parrot = {"application": "map", "group": "parts"}
    answers = await asyncio.gather(
        *(complete(http_service, f"Part {number}", parrot=parrot) for number in range(3))
    )
    assert all(answer["usage"]["completion_tokens"] == 12 for answer in answers)


async def test_penalties_and_biases_are_taken(http_service: Harness) -> None:
    answer = await complete(
        http_service, "Go", frequency_penalty=0.5, presence_penalty=-1, logit_bias={"5": -100}
    )
    assert answer["usage"]["completion_tokens"] == 12
