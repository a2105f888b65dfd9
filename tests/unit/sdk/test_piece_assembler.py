"""Streams that are reset still give each character once, or say that they cannot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot.errors import ParrotError
from parrot.sdk.assembler import PieceAssembler


def test_repeated_attempt_is_skipped_until_it_goes_beyond() -> None:
    assembler = PieceAssembler("v")
    given_out = [assembler.delta("ab"), assembler.delta("cd")]
    assembler.reset()
    given_out += [assembler.delta("abc"), assembler.delta("def"), assembler.finish("abcdefg")]
    assert given_out == ["ab", "cd", "", "ef", "g"]


@pytest.mark.parametrize("other", ["x", "abx"])
def test_attempt_with_other_text_raises_stream_reset(other: str) -> None:
    assembler = PieceAssembler("v")
    assembler.delta("abc")
    assembler.reset()
    with pytest.raises(ParrotError) as caught:
        assembler.delta(other)
    assert caught.value.code == "stream_reset"


def test_value_shorter_than_what_was_streamed_raises_stream_reset() -> None:
    assembler = PieceAssembler("v")
    assembler.delta("abc")
    with pytest.raises(ParrotError, match="other text"):
        assembler.finish("ab")


@given(st.text(max_size=40), st.lists(st.integers(0, 40), max_size=6), st.data())
def test_pieces_joined_are_the_value_whatever_the_resets(
    value: str, cuts: list[int], data: st.DataObject
) -> None:
    assembler = PieceAssembler("v")
    pieces: list[str] = []
    for cut in cuts:
        end = min(cut, len(value))
        at = 0
        while at < end:
            step = data.draw(st.integers(1, end - at))
            pieces.append(assembler.delta(value[at : at + step]))
            at += step
        assembler.reset()
    pieces.append(assembler.finish(value))
    assert "".join(pieces) == value
