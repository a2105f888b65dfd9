"""What requests say of themselves, in the words of several clients."""

import pytest

from parrot.core.precedence import URGENCY_S
from parrot.core.sessions import ALONE, PartOf
from parrot.server.openai.bodies import CompletionBody
from parrot.server.openai.chat_bodies import ChatBody
from parrot.server.openai.hints import in_chain, objective_of, part_of, with_headers


def body(**fields: object) -> CompletionBody:
    return CompletionBody.model_validate({"prompt": "x", **fields})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ALONE),
        ({"prompt_cache_key": "k"}, PartOf(prefix="k")),
        ({"prompt_cache_key": "k", "prompt_cache_retention": "24h"}, PartOf(prefix="k", keep_s=86_400.0)),
        ({"prompt_cache_options": {"mode": "explicit", "ttl": "30m"}}, PartOf(keep_s=1800.0)),
        ({"metadata": {"thread_id": "t"}}, PartOf(application="t")),
        ({"metadata": {"thread_id": "t", "session_id": "s"}}, PartOf(application="s")),
        (
            {"metadata": {"session_id": "s"}, "parrot": {"application": "a", "group": "g"}},
            PartOf(application="a", group="g"),
        ),
        ({"priority": -4}, PartOf(urgency_s=4.0)),
        ({"priority": 4}, PartOf(urgency_s=-4.0)),
        ({"service_tier": "priority"}, PartOf(urgency_s=URGENCY_S)),
        ({"nvext": {"agent_hints": {"priority": 5}}}, PartOf(urgency_s=5.0)),
        ({"nvext": {"agent_hints": {"strict_priority": 1}}, "priority": 10}, PartOf(urgency_s=20.0)),
        ({"nvext": {"agent_hints": {"priority": 10**9}}}, PartOf(urgency_s=URGENCY_S)),
    ],
    ids=str,
)
def test_a_body_says_what_its_request_is_a_part_of(fields: dict[str, object], expected: PartOf) -> None:
    assert part_of(body(**fields)) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, PartOf(application="m")),
        ({"x-dynamo-session-id": "s"}, PartOf(application="s", chain="s")),
        ({"x-session-id": "o", "x-dynamo-session-id": "s"}, PartOf(application="s", chain="s")),
        (
            {"x-session-id": "child", "x-parent-session-id": "root"},
            PartOf(application="root", chain="child"),
        ),
        (
            {"x-dynamo-session-id": "s", "x-dynamo-session-final": "true"},
            PartOf(application="s", chain="s", is_last=True),
        ),
        ({"x-dynamo-session-id": "s" * 500}, PartOf(application="s" * 256, chain="s" * 256)),
    ],
    ids=str,
)
def test_headers_say_more_than_the_body(headers: dict[str, str], expected: PartOf) -> None:
    assert with_headers(part_of(body(metadata={"session_id": "m"})), headers) == expected


def test_a_turn_of_a_conversation_belongs_to_it_unless_a_header_said_more() -> None:
    assert in_chain(ALONE, "c") == PartOf(application="c", chain="c")
    assert in_chain(PartOf(application="a"), "c") == PartOf(application="a", chain="c")
    assert in_chain(PartOf(application="s", chain="s"), "c").chain == "s"
    assert in_chain(ALONE, None) is ALONE


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "latency"),
        ({"service_tier": "flex"}, "throughput"),
        ({"service_tier": "fast"}, "latency"),
        ({"priority": 1}, "throughput"),
        ({"priority": -1}, "latency"),
        ({"nvext": {"agent_hints": {"latency_sensitivity": 0}}}, "throughput"),
        ({"service_tier": "flex", "parrot": {"objective": "latency"}}, "latency"),
    ],
    ids=str,
)
def test_somebody_waits_unless_the_sender_says_that_it_has_time(
    fields: dict[str, object], expected: str
) -> None:
    assert objective_of(body(**fields)) == expected


def test_how_long_an_answer_will_be_is_said_by_a_prediction_or_a_hint() -> None:
    messages = [{"role": "user", "content": "x"}]
    prediction = {"type": "content", "content": [{"type": "text", "text": "word " * 40}]}
    predicted = ChatBody.model_validate({"messages": messages, "prediction": prediction})
    assert predicted.predicted_tokens == 50
    assert body(nvext={"agent_hints": {"osl": 7}}).predicted_tokens == 7
    assert body().predicted_tokens is None
