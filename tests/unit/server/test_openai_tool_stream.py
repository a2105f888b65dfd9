"""Calls of tools are read the same however their text is cut into pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
