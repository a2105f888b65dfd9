"""`POST /v1/completions` over a socket: what clients of other servers send, and what they get."""

import asyncio

import pytest
from http_harness import KEY_B, Harness
from openai_streams import COMPLETIONS, ask, complete, stream

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_completion_has_openais_shape(http_service: Harness) -> None:
    answer = await complete(http_service, "Say something", model="scripted", user="u", metadata={"a": "b"})
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["model"] == "scripted"
    assert isinstance(answer["created"], int)
    (choice,) = answer["choices"]
    assert choice["text"]
    assert choice.keys() == {"index", "text", "logprobs", "finish_reason"}
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
    usage = answer["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


async def test_a_completion_ends_by_itself_or_at_sixteen_tokens(http_service: Harness) -> None:
    stopped = await ask(http_service, COMPLETIONS, prompt="#blank", max_tokens=100)
    assert stopped["choices"][0]["finish_reason"] == "stop"
    bounded = await ask(http_service, COMPLETIONS, prompt="How long?", ignore_eos=True)
    assert bounded["usage"]["completion_tokens"] == 16
    assert bounded["choices"][0]["finish_reason"] == "length"


async def test_text_is_cut_before_the_stop_string(http_service: Harness) -> None:
    whole = await ask(http_service, COMPLETIONS, prompt="#json", max_tokens=50)
    for stop in ("null", ["xyz", "null"]):
        cut = (await ask(http_service, COMPLETIONS, prompt="#json", max_tokens=50, stop=stop))["choices"][0]
        assert cut["text"] == whole["choices"][0]["text"].split("null")[0]
        assert cut["finish_reason"] == "stop"


async def test_several_prompts_and_choices_stand_in_order(http_service: Harness) -> None:
    answer = await complete(http_service, ["First one", "Then two", "And three"], n=2)
    choices = answer["choices"]
    assert [choice["index"] for choice in choices] == list(range(6))
    alone = [await complete(http_service, prompt) for prompt in ("First one", "Then two", "And three")]
    expected = [one["choices"][0]["text"] for one in alone for _ in range(2)]
    assert [choice["text"] for choice in choices] == expected
    assert answer["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in alone)
    assert answer["usage"]["completion_tokens"] == 6 * 12


async def test_choices_of_a_seed_differ_and_come_again(http_service: Harness) -> None:
    first, again = [
        [
            choice["text"]
            for choice in (
                await complete(http_service, "Draw a word", n=4, temperature=1, seed=7, max_tokens=20)
            )["choices"]
        ]
        for _ in range(2)
    ]
    assert first == again
    assert len(set(first)) == 4


async def test_a_prompt_of_token_ids_reads_as_its_text(http_service: Harness) -> None:
    text = "Plain words of a prompt"
    engine_model = http_service.service.requests.model("scripted")
    ids = list(engine_model.tokenizer.encode(text))
    by_text = await complete(http_service, text, echo=True)
    by_ids = await complete(http_service, ids, echo=True)
    both = await complete(http_service, [ids, ids], echo=True)
    assert by_text["choices"][0]["text"].startswith(text)
    assert by_ids["choices"][0]["text"] == by_text["choices"][0]["text"]
    assert by_ids["usage"]["prompt_tokens"] == len(ids)
    assert [choice["text"] for choice in both["choices"]] == [by_text["choices"][0]["text"]] * 2


async def test_placeholders_and_special_tokens_in_a_prompt_are_plain_text(http_service: Harness) -> None:
    prompt = "{{x}} {{{{ <|im_end|> </s>"
    answer = await complete(http_service, prompt, echo=True)
    assert answer["choices"][0]["text"].startswith(prompt)
    tokenizer = http_service.service.requests.model(None).tokenizer
    assert answer["usage"]["prompt_tokens"] == len(tokenizer.encode(prompt))
    assert len(tokenizer.encode(prompt)) > len(tokenizer.encode(prompt, markup=True))


async def test_likelihoods_of_tokens_are_told(http_service: Harness) -> None:
    answer = await complete(http_service, "How likely?", logprobs=3)
    text, told = answer["choices"][0]["text"], answer["choices"][0]["logprobs"]
    assert "".join(told["tokens"]) == text
    assert len(told["token_logprobs"]) == 12
    assert all(logprob <= 0 for logprob in told["token_logprobs"])
    assert all(len(top) == 3 for top in told["top_logprobs"])
    assert all(
        top[token] == logprob
        for top, token, logprob in zip(
            told["top_logprobs"], told["tokens"], told["token_logprobs"], strict=True
        )
    )
    assert [
        text[at:].startswith(token) for at, token in zip(told["text_offset"], told["tokens"], strict=True)
    ]
    chosen = (await complete(http_service, "How likely?", logprobs=0))["choices"][0]["logprobs"]
    assert chosen["token_logprobs"] == told["token_logprobs"]
    assert not any(chosen["top_logprobs"])


async def test_a_stream_gives_the_text_in_pieces_and_then_the_usage(http_service: Harness) -> None:
    body = {"prompt": "Tell me", "max_tokens": 70, "temperature": 0, "ignore_eos": True, "logprobs": 1}
    whole = await ask(http_service, COMPLETIONS, **body)
    chunks = await stream(http_service, COMPLETIONS, **body, stream_options={"include_usage": True})
    *pieces, last, usage = chunks
    text = "".join(chunk["choices"][0]["text"] for chunk in pieces)
    assert text == whole["choices"][0]["text"]
    assert len(pieces) > 1
    assert last["choices"][0]["finish_reason"] == "length"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in pieces)
    assert all(chunk["usage"] is None for chunk in (*pieces, last))
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 70
    assert len({chunk["id"] for chunk in chunks}) == 1
    told = [token for chunk in pieces for token in chunk["choices"][0]["logprobs"]["tokens"]]
    assert told == whole["choices"][0]["logprobs"]["tokens"]


async def test_streamed_choices_come_side_by_side_and_each_whole(http_service: Harness) -> None:
    body = {"prompt": ["Left", "Right"], "max_tokens": 70, "temperature": 0, "ignore_eos": True, "echo": True}
    whole = await ask(http_service, COMPLETIONS, **body)
    texts, ends = {0: "", 1: ""}, {}
    for chunk in await stream(http_service, COMPLETIONS, **body):
        (choice,) = chunk["choices"]
        assert "usage" not in chunk
        texts[choice["index"]] += choice["text"]
        if choice["finish_reason"]:
            ends[choice["index"]] = choice["finish_reason"]
    assert texts == {choice["index"]: choice["text"] for choice in whole["choices"]}
    assert ends == {0: "length", 1: "length"}


async def test_what_prompts_have_in_common_is_computed_once_to_the_block(http_service: Harness) -> None:
    common = "These are the rules that every question is asked under. " * 20
    tokenizer = http_service.service.requests.model(None).tokenizer
    num_common = len(tokenizer.encode(common))
    first = await complete(http_service, f"{common} one")
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    again = await asyncio.gather(*[complete(http_service, f"{common} question {i}") for i in range(6)])
    for answer in again:
        assert num_common - 32 < answer["usage"]["prompt_tokens_details"]["cached_tokens"] <= num_common
    inside = await complete(http_service, common[: len(common) // 2] + " something else")
    assert inside["usage"]["prompt_tokens_details"]["cached_tokens"] >= num_common // 2 - 32


async def test_what_was_answered_is_there_for_the_next_turn(http_service: Harness) -> None:
    prompt = " ".join(["The first turn of a conversation that is going to be longer."] * 4)
    first = await complete(http_service, prompt, max_tokens=100)
    second = await complete(http_service, prompt + first["choices"][0]["text"] + " And then?")
    shared = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert shared > first["usage"]["prompt_tokens"]


async def test_choices_of_one_prompt_share_all_of_it(http_service: Harness) -> None:
    before = http_service.service.counters()["shared_tokens"]
    answer = await complete(http_service, "One prompt of some length for all of its choices. " * 9, n=4)
    shared = http_service.service.counters()["shared_tokens"] - before
    assert shared == 3 * answer["usage"]["prompt_tokens"]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_another_tenants_prompts_are_not_shared(http_service: Harness) -> None:
    prompt = "A secret that is long enough to stand in several blocks of the cache. " * 8
    await complete(http_service, prompt)
    body = {"prompt": prompt, "max_tokens": 4}
    other = await http_service.client.post(
        COMPLETIONS, json=body, headers={"Authorization": f"Bearer {KEY_B}"}
    )
    assert other.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    mine = await ask(http_service, COMPLETIONS, **body)
    assert mine["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


async def test_nothing_of_a_request_is_left_behind(http_service: Harness) -> None:
    await complete(http_service, "Leave no trace", n=3)
    assert (await http_service.client.get("/v1/sessions")).json()["sessions"] == []
    counters = http_service.service.counters()
    assert (counters["sessions_open"], counters["calls_running"], counters["waiters"]) == (0, 0, 0)
