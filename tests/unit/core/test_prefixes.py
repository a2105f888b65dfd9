"""Prefix keys and the index of who holds what."""

from parrot.core.prefixes import (
    BLOCK_TOKENS,
    PrefixIndex,
    block_keys,
    generated_key,
    owned_key,
    root_key,
    text_key,
)
from parrot.ports.engine import ContextRef
from parrot.types.ids import ContextId, EngineId, PrefixKey, TenantId, VariableId

ALPHA, BETA = EngineId("alpha"), EngineId("beta")


def root(tenant: str = "t", model: str = "m", salt: str = "s", *, bos: bool = True) -> PrefixKey:
    return root_key(salt=salt, tenant_id=TenantId(tenant), model_hash=model, add_bos=bos)


def ref(context: int, num_tokens: int) -> ContextRef:
    return ContextRef(context_id=ContextId(context), num_tokens=num_tokens)


def test_equal_texts_in_equal_order_have_equal_keys() -> None:
    assert text_key(text_key(root(), "a"), "b") == text_key(text_key(root(), "a"), "b")


def test_a_boundary_is_part_of_the_key() -> None:
    assert text_key(text_key(root(), "a"), "b") != text_key(root(), "ab")


def test_keys_differ_by_tenant_model_salt_and_beginning() -> None:
    keys = {root(), root(tenant="u"), root(model="n"), root(salt="r"), root(bos=False)}
    assert len(keys) == 5


def test_parts_of_the_root_cannot_be_shifted_into_each_other() -> None:
    assert root(tenant="ab", model="c") != root(tenant="a", model="bc")


def test_what_follows_a_published_text_is_a_tenants_own() -> None:
    published = text_key(root(tenant=""), "You are helpful.")
    mine, yours = (owned_key(published, root(tenant=tenant)) for tenant in ("t", "u"))
    assert text_key(mine, "Hi") != text_key(yours, "Hi")


def test_published_blocks_have_the_same_keys_for_all_and_later_ones_have_not() -> None:
    tokens = list(range(5 * BLOCK_TOKENS + 3))
    mine, yours = (
        block_keys(root(tenant=tenant), tokens, public=root(tenant=""), num_public=2)[0]
        for tenant in ("t", "u")
    )
    assert [a == b for a, b in zip(mine, yours, strict=True)] == [True, True, False, False, False, False]


def test_blocks_go_on_as_if_they_had_been_made_at_once() -> None:
    tokens = list(range(5 * BLOCK_TOKENS))
    whole, _ = block_keys(root(), tokens, public=root(tenant=""), num_public=2)
    assert block_keys(root(), tokens, known=whole[:3])[0] == whole


def test_markup_and_plain_text_never_share() -> None:
    assert text_key(root(), "<s>", markup=True) != text_key(root(), "<s>")


def test_a_generated_value_has_a_key_before_it_exists() -> None:
    first = generated_key(root(), VariableId("var_1"))
    assert first == generated_key(root(), VariableId("var_1"))
    assert first != generated_key(root(), VariableId("var_2"))


def test_the_longest_held_prefix_is_found_on_each_engine() -> None:
    index = PrefixIndex()
    short = text_key(root(), "a")
    long = text_key(short, "b")
    index.add(ALPHA, short, ref(1, 10))
    index.add(BETA, short, ref(1, 10))
    index.add(BETA, long, ref(2, 25))
    on_alpha, on_beta = index.longest(ALPHA, [short, long]), index.longest(BETA, [short, long])
    assert on_alpha is not None
    assert (on_alpha.boundary, on_alpha.ref) == (0, ref(1, 10))
    assert on_beta is not None
    assert (on_beta.boundary, on_beta.ref) == (1, ref(2, 25))
    assert index.engines_with(long) == {BETA}


def test_a_prefix_counts_as_held_beyond_a_length_from_that_length_on() -> None:
    index = PrefixIndex()
    keys = [PrefixKey(bytes([number])) for number in range(4)]
    lengths = [10, 20, 20, 30]
    index.note(EngineId("a"), keys[2], ContextId(1), 20)
    beyond = [num for num in (0, 10, 19, 20, 21, 30, 31) if index.is_held_beyond(keys, lengths, num)]
    assert beyond == [0, 10, 19, 20]


def test_dropping_a_context_leaves_other_holders() -> None:
    index = PrefixIndex()
    key = text_key(root(), "a")
    index.add(ALPHA, key, ref(1, 10))
    index.add(ALPHA, key, ref(2, 10))
    index.drop(ALPHA, ContextId(1))
    match = index.longest(ALPHA, [key])
    assert match is not None
    assert match.ref.context_id == 2


def test_nothing_is_left_when_every_holder_is_gone() -> None:
    index = PrefixIndex()
    for context in range(5):
        index.add(ALPHA, text_key(root(), str(context % 2)), ref(context, 3))
        index.add(BETA, text_key(root(), str(context)), ref(context, 3))
    index.drop_engine(BETA)
    for context in range(5):
        index.drop(ALPHA, ContextId(context))
    assert index.num_keys == 0
    assert index.longest(ALPHA, [text_key(root(), "0")]) is None


def test_dropping_what_is_not_known_changes_nothing() -> None:
    index = PrefixIndex()
    index.drop(ALPHA, ContextId(7))
    index.drop_engine(BETA)
    assert index.num_keys == 0


def test_it_is_told_whenever_a_fork_of_a_prefix_would_take_another_context() -> None:
    index, told = PrefixIndex(), list[PrefixKey]()
    index.on_first = told.append
    key = text_key(root(), "a")
    index.add(ALPHA, key, ref(1, 10))
    index.add(ALPHA, key, ref(2, 10))
    assert told == [key]
    index.drop(ALPHA, ContextId(2))
    assert told == [key]
    index.add(ALPHA, key, ref(3, 10))
    index.drop(ALPHA, ContextId(1))
    index.add(BETA, key, ref(1, 10))
    assert told == [key] * 3
