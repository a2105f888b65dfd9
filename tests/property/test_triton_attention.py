"""The Triton kernels over random trees give what the plain definition gives; without a GPU, interpreted."""

import importlib.util
import os
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parrot.engine.native.plan import Piece
from parrot.engine.torch.attention import ReferenceAttention
from parrot.engine.torch.contexts import Context
from parrot.engine.torch.cuda import pieces as work
from parrot.engine.torch.cuda.check import open_triton_attention
from parrot.engine.torch.kv_cache import KvCache, KvShape
from parrot.engine.torch.models.decoder import AttentionTraits
from parrot.engine.torch.step_input import QueryRows, Span, StepInput
from parrot.types.ids import ContextId

if TYPE_CHECKING:
    from parrot.engine.torch.cuda.attention import TritonAttention

HAS_TRITON = importlib.util.find_spec("triton") is not None
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32] + [torch.bfloat16] * (DEVICE.type == "cuda")
"""The interpreter multiplies no bfloat16 matrices."""
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")


def triton_attention(cache: KvCache, *, num_heads: int, shares: bool) -> "TritonAttention":
    if DEVICE.type == "cpu":
        # Read when the kernels are declared, which the import does.
        os.environ["TRITON_INTERPRET"] = "1"
    from parrot.engine.torch.cuda.attention import TritonAttention

    return TritonAttention(cache, num_heads=num_heads, shares=shares)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A context with its own tokens' slots, seen as far as the next one of a lineage begins."""

    context: Context
    slots: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    rows: tuple[QueryRows, ...]
    num_slots: int
    heads: tuple[int, int]
    head_dim: int
    dtype: torch.dtype
    seed: int


def runs_of(slots: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    runs: list[tuple[int, int]] = []
    for slot in slots:
        if runs and sum(runs[-1]) == slot:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((slot, 1))
    return tuple(runs)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Requests that fork from a chain of shared contexts, each with tokens of its own, some in the step."""
    shared_lengths = draw(st.lists(st.integers(1, 70), min_size=1, max_size=2))
    requests = draw(
        st.lists(
            st.tuples(st.integers(0, len(shared_lengths)), st.integers(0, 30), st.integers(0, 3)),
            min_size=1,
            max_size=4,
        )
    )
    total = sum(shared_lengths) + sum(before + max(new, 1) for _, before, new in requests)
    order = list(range(total))
    if draw(st.booleans()):
        draw(st.randoms(use_true_random=False)).shuffle(order)
    free = iter(order)

    def take(count: int) -> tuple[int, ...]:
        return tuple(next(free) for _ in range(count))

    chain = [
        Node(context=Context(ContextId(at), None, 0), slots=take(length))
        for at, length in enumerate(shared_lengths)
    ]
    rows: list[QueryRows] = []
    first = 0
    for number, (depth, before, new) in enumerate(requests):
        cuts = [draw(st.integers(1, len(node.slots))) for node in chain[:depth]]
        spans = [
            Span(node.context, cut, runs_of(node.slots[:cut]))
            for node, cut in zip(chain[:depth], cuts, strict=True)
        ]
        # A probe has no new tokens: it reads what is there once more.
        is_probe = new == 0 and (before > 0 or bool(spans))
        if before:
            context = Context(ContextId(100 + number), None, 0)
            spans.append(Span(context, before, runs_of(take(before))))
        count = 1 if is_probe else max(new, 1)
        rows.append(
            QueryRows(
                first=first,
                num_rows=count,
                spans=tuple(spans),
                num_own_before=0 if is_probe else before,
                own=() if is_probe else runs_of(take(count)),
            )
        )
        first += count
    return Case(
        rows=tuple(rows),
        num_slots=total,
        heads=draw(st.sampled_from([(6, 2), (2, 2), (4, 1)])),
        head_dim=draw(st.sampled_from([16, 32, 80])),
        dtype=draw(st.sampled_from(DTYPES)),
        seed=draw(st.integers(0, 1 << 30)),
    )


@needs_triton
@settings(max_examples=10, deadline=None)
@given(case=cases(), shares=st.booleans(), split=st.sampled_from([24, 512]))
def test_random_trees_give_the_reference(case: Case, shares: bool, split: int) -> None:
    num_heads, num_kv_heads = case.heads
    shape = KvShape(
        num_layers=1, num_kv_heads=num_kv_heads, head_dim=case.head_dim, block_tokens=1, dtype=case.dtype
    )
    random = torch.Generator().manual_seed(case.seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=random).to(DEVICE, case.dtype)

    cache = KvCache(shape, case.num_slots, DEVICE)
    cache.keys.copy_(normal(*cache.keys.shape))
    cache.values.copy_(normal(*cache.values.shape))
    num_rows = sum(rows.num_rows for rows in case.rows)
    slots = [
        slot
        for rows in case.rows
        for slot in (
            [s for first, count in rows.own for s in range(first, first + count)] or [cache.scratch_slot]
        )
    ]
    places = torch.arange(num_rows, device=DEVICE)
    step = StepInput(
        token_ids=places,
        positions=places,
        slots=torch.tensor(slots, device=DEVICE),
        rows=case.rows,
        logit_rows=places,
    )
    queries = normal(num_rows, num_heads, case.head_dim)
    keys, values = (normal(num_rows, num_kv_heads, case.head_dim) for _ in "kv")
    reference = ReferenceAttention(cache, AttentionTraits())
    reference.begin(step)
    expected = reference.attend(0, queries, keys, values).float()
    attention = triton_attention(cache, num_heads=num_heads, shares=shares)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "SPLIT_TOKENS", split)
        attention.begin(step)
    found = attention.attend(0, queries, keys, values).float()
    bound = 1e-5 if case.dtype == torch.float32 else 2e-2
    assert float((found - expected).abs().max()) <= bound


@needs_triton
@pytest.mark.parametrize("shares", [True, False])
def test_the_check_at_start_takes_right_kernels_and_refuses_wrong_ones(
    shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = KvShape(num_layers=1, num_kv_heads=2, head_dim=16, block_tokens=16, dtype=torch.float32)
    cache = KvCache(shape, 4, DEVICE)
    good = triton_attention(cache, num_heads=4, shares=shares)
    found, words = open_triton_attention(cache, num_heads=4, shares=shares)
    assert (type(found), words) == (type(good), "Triton kernels")
    right = type(good).attend

    def wrong(*args: Any) -> torch.Tensor:
        return right(*args) * 1.5

    monkeypatch.setattr(type(good), "attend", wrong)
    found, words = open_triton_attention(cache, num_heads=4, shares=shares)
    assert found is None
    assert "wrong" in words


def test_a_cache_too_small_for_the_check_or_no_triton_means_plain_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = KvShape(num_layers=1, num_kv_heads=2, head_dim=16, block_tokens=16, dtype=torch.float32)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    found, words = open_triton_attention(KvCache(shape, 4, DEVICE), num_heads=4, shares=True)
    assert (found, words) == (None, "Triton is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    found, words = open_triton_attention(KvCache(shape, 1, DEVICE), num_heads=4, shares=True)
    assert found is None
    assert "slots" in words


def test_a_long_piece_is_split_and_each_row_finds_all_its_entries() -> None:
    shared = Piece(runs=((0, 600), (700, 30)), readers=((0, 3, 630, 0),))
    chunk = Piece(runs=((800, 4),), readers=((3, 2, 3, 1), (0, 1, 2, 0)))
    tables = work.build_tables([shared, chunk], num_rows=5, readers_per_item=2, device=torch.device("cpu"))
    assert tables.items.tolist() == [
        [0, 512, 0, 2],
        [0, 512, 2, 1],
        [512, 118, 3, 2],
        [512, 118, 5, 1],
        [630, 4, 6, 2],
        [630, 4, 8, 1],
    ]
    assert tables.entries[:3].tolist() == [[0, 512], [1, 512], [2, 512]]
    assert tables.entries[6:].tolist() == [[3, 3], [4, 4], [0, 2]]
    starts = tables.row_starts.tolist()
    numbers = tables.row_entries.tolist()
    found = [numbers[first:end] for first, end in pairwise(starts)]
    assert found == [[0, 3, 8], [1, 4], [2, 5], [6], [7]]
