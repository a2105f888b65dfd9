"""The cache of texts' tokens: it answers as the tokenizer does, and is bounded."""

from collections.abc import Mapping, Sequence

from parrot.core.prompts import Model, TokenCache
from parrot.types.ids import TenantId


class CountingTokenizer:
    """One token for each character; counts what it is asked."""

    vocab_size = 0x110000
    bos_ids = ()

    def __init__(self) -> None:
        self.num_asked = 0

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        self.num_asked += 1
        return tuple(map(ord, text))

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
    ) -> str:
        raise NotImplementedError


def make_model() -> tuple[Model, CountingTokenizer]:
    tokenizer = CountingTokenizer()
    return Model(name="m", model_hash="h", context_tokens=100, tokenizer=tokenizer), tokenizer


def test_a_text_is_tokenised_once_however_long_it_is() -> None:
    model, tokenizer = make_model()
    cache = TokenCache()
    document = "word " * 10_000
    answers = [cache.encode(model, document, markup=False) for _ in range(3)]
    assert tokenizer.num_asked == 1
    assert answers == [tuple(map(ord, document))] * 3


def test_markup_and_plain_text_are_two_things() -> None:
    model, tokenizer = make_model()
    cache = TokenCache()
    cache.encode(model, "<s>", markup=False)
    cache.encode(model, "<s>", markup=True)
    assert tokenizer.num_asked == 2


def test_the_time_it_takes_does_not_tell_a_tenant_what_another_sent() -> None:
    model, tokenizer = make_model()
    cache = TokenCache()
    cache.encode(model, "a secret", markup=False, tenant_id=TenantId("a"))
    cache.encode(model, "a secret", markup=False, tenant_id=TenantId("b"))
    assert tokenizer.num_asked == 2


def test_all_texts_together_are_bounded_by_their_tokens_and_the_oldest_go_first() -> None:
    model, tokenizer = make_model()
    cache = TokenCache(max_texts=100, max_tokens=1000)
    for letter in "abcdef":
        cache.encode(model, letter * 180, markup=False)
    assert cache.num_tokens <= 1000
    tokenizer.num_asked = 0
    cache.encode(model, "f" * 180, markup=False)
    assert tokenizer.num_asked == 0
    cache.encode(model, "a" * 180, markup=False)
    assert tokenizer.num_asked == 1


def test_a_text_that_would_push_all_others_out_is_not_kept() -> None:
    model, tokenizer = make_model()
    cache = TokenCache(max_texts=100, max_tokens=1000)
    cache.encode(model, "short", markup=False)
    cache.encode(model, "x" * 5000, markup=False)
    tokenizer.num_asked = 0
    cache.encode(model, "short", markup=False)
    assert tokenizer.num_asked == 0
