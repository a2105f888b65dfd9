"""Calls of tools are read the same however their text is cut into pieces."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot.core.executor.requests import Outcome, Piece
from parrot.engine.scripted_tokenizer import ScriptedTokenizer
from parrot.ports.engine import TokenLogprob
from parrot.server.openai.answers import ChatWriter, Head
from parrot.server.openai.tool_stream import CallReader

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)
CALLS = st.lists(st.tuples(st.text(), st.dictionaries(st.text(), VALUES, max_size=3)), min_size=1, max_size=3)


@given(CALLS, st.booleans(), st.integers(1, 40), st.booleans())
def test_names_and_arguments_come_as_they_were_written(
    calls: list[tuple[str, dict[str, object]]], ascii_only: bool, size: int, name_last: bool
) -> None:
    written = [
        {"arguments": arguments, "name": name} if name_last else {"name": name, "arguments": arguments}
        for name, arguments in calls
    ]
    text = json.dumps(written if len(written) > 1 else written[0], ensure_ascii=ascii_only)
    reader = CallReader()
    pieces = [
        piece for start in range(0, len(text), size) for piece in reader.feed(text[start : start + size])
    ]
    assert [(call.name, json.loads(call.arguments)) for call in reader.calls] == calls
    for number, call in enumerate(reader.calls):
        own = [piece for piece in pieces if piece.number == number]
        assert "".join(piece.arguments for piece in own) == call.arguments
        assert [piece.name for piece in own] == [call.name, *[None] * (len(own) - 1)]
    assert [piece.number for piece in pieces] == sorted(piece.number for piece in pieces)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"a": [1, {"name": "inner"}]}', []),
        ('[1, 2, "{"]', []),
        ('{"name": "f", "arguments": {"x": "tru', [("f", '{"x": "tru')]),
        ('{"name": "f"}', [("f", "")]),
        ('{"name": "cut of', []),
        ('{"id": 5, "name": "f", "more": null, "arguments": {}}', [("f", "{}")]),
    ],
)
def test_what_is_no_call_is_passed_over_and_what_is_cut_off_is_there_as_far_as_it_came(
    text: str, calls: list[tuple[str, str]]
) -> None:
    reader = CallReader()
    reader.feed(text)
    assert [(call.name, call.arguments) for call in reader.calls] == calls


def told_in(answer: Any) -> list[object]:
    told = answer["choices"][0]["logprobs"]
    return [] if told is None else list(told["content"])


@pytest.mark.parametrize("text", ['[{"name": "now", "arguments": {}}]', "{}", "[]", "in words"])
def test_a_stream_tells_the_likelihoods_of_all_tokens_whatever_the_answer_is(text: str) -> None:
    told = tuple(TokenLogprob(token_id=65 + number, logprob=-number) for number in range(len(text) + 1))
    pieces = [Piece(text=shown, logprobs=(one,)) for shown, one in zip(("", *text), told, strict=True)]
    outcome = Outcome(
        text=text,
        finish_reason="stop",
        num_prompt_tokens=1,
        num_shared_tokens=0,
        num_tokens=len(told),
        logprobs=told,
    )
    writer = ChatWriter(
        Head(id="chatcmpl-1", created=0, model="m"), ScriptedTokenizer(), tells=True, tools=True
    )
    chunks = [*(writer.piece(0, piece) for piece in pieces), *writer.last(0, outcome)]
    streamed = [token for chunk in chunks if chunk is not None for token in told_in(chunk)]
    assert streamed == told_in(writer.whole([outcome], {}))
