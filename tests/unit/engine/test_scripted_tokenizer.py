"""The scripted engine's tokenizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot.engine.scripted_tokenizer import SPECIAL_IDS, ScriptedTokenizer
from parrot.errors import TemplateError

TOKENIZER = ScriptedTokenizer()
ENGLISH = (
    "Summarise the following document in one short paragraph. It was the best of times, it was the worst "
    "of times, and the people of the town had little to say about either."
)


@given(st.text())
def test_every_text_comes_back_as_it_was(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
    assert TOKENIZER.decode(TOKENIZER.encode(text, markup=True)) == text


@given(st.text(alphabet=st.sampled_from("aZz é🙂<|im_end>\n"), max_size=40), st.text(max_size=20))
def test_texts_encoded_apart_decode_joined(first: str, second: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(first) + TOKENIZER.encode(second)) == first + second


@given(st.text())
def test_no_special_id_comes_out_of_plain_text(text: str) -> None:
    ids = TOKENIZER.encode("<|im_start|>" + text + "</s>")
    assert not set(ids) & set(SPECIAL_IDS.values())
    assert all(0 <= token_id < TOKENIZER.vocab_size for token_id in ids)


def test_special_tokens_count_with_markup_only() -> None:
    ids = TOKENIZER.encode("<|im_start|>user\nhi<|im_end|>", markup=True)
    assert (ids[0], ids[-1]) == (SPECIAL_IDS["<|im_start|>"], SPECIAL_IDS["<|im_end|>"])
    assert TOKENIZER.decode(ids) == "<|im_start|>user\nhi<|im_end|>"


def test_english_takes_about_four_characters_a_token() -> None:
    assert 3.5 < len(ENGLISH) / len(TOKENIZER.encode(ENGLISH)) < 5


@given(st.lists(st.integers(-5, TOKENIZER.vocab_size + 5), max_size=30))
def test_any_ids_decode_to_some_text(token_ids: list[int]) -> None:
    assert TOKENIZER.decode(token_ids).encode() is not None


def test_broken_and_unknown_tokens_decode_to_the_replacement_character() -> None:
    assert TOKENIZER.decode((0xC3,)) == TOKENIZER.decode((TOKENIZER.vocab_size,)) == "\ufffd"


def test_messages_are_written_in_chatml_and_nothing_is_trimmed() -> None:
    messages = [{"role": "system", "content": " be brief "}, {"role": "user", "content": "hi"}]
    text = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\n be brief <|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(TemplateError) as refused:
        TOKENIZER.apply_chat_template([{"role": "narrator", "content": "x"}], add_generation_prompt=False)
    assert refused.value.code == "bad_messages"
