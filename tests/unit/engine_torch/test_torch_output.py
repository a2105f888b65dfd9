"""Tokens become text a whole character at a time, and nothing of a stop string leaks."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot.engine.torch.output import Output, TokenText


class ByteDecoder:
    """One token for each byte."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode("utf-8", "replace")


def push_all(text: TokenText, token_ids: Sequence[int]) -> list[str]:
    return [text.push(token_id) for token_id in token_ids]


@given(st.text(max_size=30))
def test_pieces_of_valid_text_are_whole_characters_and_join_to_it(content: str) -> None:
    text = TokenText(ByteDecoder())
    pieces = push_all(text, content.encode())
    assert "".join(pieces) == content
    assert text.is_complete or content.endswith("\ufffd")


@given(st.binary(max_size=30))
def test_pieces_of_any_bytes_join_to_their_decoding(content: bytes) -> None:
    text = TokenText(ByteDecoder())
    joined = "".join(push_all(text, content))
    whole = ByteDecoder().decode(content)
    assert whole.startswith(joined)
    assert set(whole[len(joined) :]) <= {"\ufffd"}
    assert joined == whole or not text.is_complete


@pytest.mark.parametrize("character", ["é", "本", "🦜"])
def test_no_piece_splits_a_character(character: str) -> None:
    pieces = push_all(TokenText(ByteDecoder()), f"a{character}b".encode())
    assert [piece for piece in pieces if piece] == ["a", character, "b"]


def test_an_unfinished_last_character_is_left_out_and_makes_the_output_inexact() -> None:
    output = Output(ByteDecoder(), stop=(), min_tokens=0)
    text = "".join(output.push(token_id) for token_id in "né".encode()[:-1])
    assert text == "n"
    assert output.finish() == ("", False)


def test_text_that_may_begin_a_stop_string_is_held_back_until_it_does_not() -> None:
    output = Output(ByteDecoder(), stop=("END", "Ex"), min_tokens=0)
    pieces = [output.push(token_id) for token_id in b"aEN ENx"]
    assert pieces == ["a", "", "", "EN ", "", "", "ENx"]
    assert output.finish() == ("", True)


def test_a_stop_string_over_several_tokens_is_cut_off() -> None:
    output = Output(ByteDecoder(), stop=("本日",), min_tokens=0)
    text = ""
    for token_id in "今日本日は".encode():
        text += output.push(token_id)
        if output.stopped:
            break
    assert text == "今日"
    assert output.finish() == ("", False)


def test_a_held_back_beginning_comes_out_at_the_end() -> None:
    output = Output(ByteDecoder(), stop=("END",), min_tokens=0)
    assert "".join(output.push(token_id) for token_id in b"xEN") == "x"
    assert output.finish() == ("EN", True)


def test_a_stop_string_before_min_tokens_is_not_heeded() -> None:
    output = Output(ByteDecoder(), stop=("b",), min_tokens=3)
    text = "".join(output.push(token_id) for token_id in b"abcab")
    assert text == "abca"
    assert output.stopped
