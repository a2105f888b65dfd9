import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot.errors import TemplateError
from parrot.sim.tokens import NUM_SEEDS, MarkTokenizer, mark, token_id

TOKENIZER = MarkTokenizer()
pieces = st.one_of(
    st.tuples(st.integers(1, 200), st.integers(0, NUM_SEEDS - 1)).map(lambda each: mark(*each)),
    st.text(st.characters(exclude_characters="‹›\ufffd", codec="utf-8"), max_size=8),
)


@given(st.lists(pieces, max_size=6))
def test_every_text_comes_back_with_the_same_tokens(parts: list[str]) -> None:
    ids = TOKENIZER.encode("".join(parts))
    assert TOKENIZER.encode(TOKENIZER.decode(ids)) == ids
    assert all(0 <= each < TOKENIZER.vocab_size for each in ids)


def test_a_mark_is_as_long_as_it_says() -> None:
    assert TOKENIZER.encode(mark(5107, 42)) == (token_id(42),) * 5107


def test_text_between_marks_is_bytes() -> None:
    assert TOKENIZER.encode(f"é{mark(2, 1)}!") == (0xC3, 0xA9, token_id(1), token_id(1), 0x21)


def test_no_tokens_are_no_text() -> None:
    assert mark(0, 3) == ""


def test_a_seed_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="seed"):
        mark(1, NUM_SEEDS)


def test_messages_become_lines() -> None:
    messages = [{"role": "user", "content": mark(3, 1)}]
    text = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True)
    assert text == f"user:{mark(3, 1)}\nassistant:"


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(TemplateError):
        TOKENIZER.apply_chat_template([{"role": "crowd"}], add_generation_prompt=False)
