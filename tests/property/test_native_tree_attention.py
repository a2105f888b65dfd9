"""Native attention over random pieces, fragmented caches and all instruction sets, against its definition.

The cache is full of NaN where nothing was written: what a row may not see must not reach it in any way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parrot.engine.native.kernels import load_native
from parrot.engine.native.library import ISAS, Isa
from parrot.engine.native.plan import TILE_SLOTS, AttentionPlan, AttentionShape, Piece

HALF_ULP = 2.0**-8
"""Largest relative error of rounding to bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A step over a cache."""

    shape: AttentionShape
    num_rows: int
    pieces: tuple[Piece, ...]
    own_slots: tuple[int, ...]
    """For each row the slot at which its key and value go, or -1."""
    loudness: float
    """Of the queries: with 40 a row's largest score may be some hundreds above those that it saw first."""
    seed: int


def fragmented(draw: st.DrawFn, slots: list[int]) -> list[tuple[int, int]]:
    """Slots in order as runs: neighbours together, but now and then not."""
    runs: list[tuple[int, int]] = []
    for slot in slots:
        if runs and sum(runs[-1]) == slot:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((slot, 1))
    first, count = runs[0]
    if count > 1 and draw(st.booleans()):
        cut = draw(st.integers(1, count - 1))
        runs[:1] = [(first, cut), (first + cut, count - cut)]
    return runs


@st.composite
def cases(draw: st.DrawFn) -> Case:
    block = draw(st.sampled_from([4, 16, 16, 48]))
    lengths = draw(st.lists(st.integers(1, 290) | st.integers(500, 600), min_size=1, max_size=4))
    num_rows = draw(st.integers(1, 40))
    num_blocks = [-(-length // block) for length in lengths]
    order = list(range(sum(num_blocks)))
    if draw(st.booleans()):
        draw(st.randoms(use_true_random=False)).shuffle(order)
    own_slots = [-1] * num_rows
    taken: set[int] = set()
    pieces = []
    at = 0
    for index, length in enumerate(lengths):
        slots = [
            slot for b in order[at : at + num_blocks[index]] for slot in range(b * block, (b + 1) * block)
        ]
        at += num_blocks[index]
        readers = []
        first = 0 if index == 0 else draw(st.integers(0, num_rows - 1))
        while first < num_rows:
            count = draw(st.integers(1, num_rows - first))
            more = draw(st.sampled_from([0, 1])) if length >= count else 0
            limit = draw(st.integers(1, length - more * (count - 1)))
            readers.append((first, count, limit, more))
            if more and index == 0:
                # A chunk: each of its rows is the last token that it sees. Later chunks may say otherwise.
                for row in range(count):
                    slot = slots[limit + row - 1]
                    if slot not in taken:
                        taken.add(slot)
                        own_slots[first + row] = slot
            first += count + (0 if index == 0 else draw(st.integers(0, num_rows)))
        pieces.append(Piece(runs=fragmented(draw, slots[:length]), readers=readers))
    heads, kv_heads = draw(st.sampled_from([(9, 3), (8, 8), (4, 1), (4, 2)]))
    num_slots = -(-sum(num_blocks) * block // TILE_SLOTS) * TILE_SLOTS
    shape = AttentionShape(
        dtype=draw(st.sampled_from([torch.bfloat16, torch.float32])),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([16, 32, 64, 80, 128])),
        num_slots=num_slots,
    )
    return Case(
        shape=shape,
        num_rows=num_rows,
        pieces=tuple(pieces),
        own_slots=tuple(own_slots),
        loudness=draw(st.sampled_from([1.0, 40.0])),
        seed=draw(st.integers(0, 1 << 30)),
    )


def unpack(cache: torch.Tensor, shape: AttentionShape, *, of_keys: bool) -> torch.Tensor:
    """[kv_heads, slots, head_dim] from the layout of `csrc/kernels.h`."""
    dim, lanes = shape.head_dim, 2 if shape.dtype == torch.bfloat16 else 1
    if of_keys:
        tiles = cache.view(shape.num_kv_heads, -1, dim // lanes, TILE_SLOTS, lanes).permute(0, 1, 3, 2, 4)
    else:
        tiles = cache.view(shape.num_kv_heads, -1, TILE_SLOTS // lanes, dim, lanes).permute(0, 1, 2, 4, 3)
    return tiles.reshape(shape.num_kv_heads, shape.num_slots, dim)


def seen_slots(case: Case) -> list[list[int]]:
    """All that each row sees."""
    seen: list[list[int]] = [[] for _ in range(case.num_rows)]
    for piece in case.pieces:
        slots = [slot for first, count in piece.runs for slot in range(first, first + count)]
        for first, count, limit, more in piece.readers:
            for row in range(count):
                seen[first + row] += slots[: limit + more * row]
    return seen


def check(case: Case, isa: Isa) -> None:
    kernels = load_native(isa)
    assert kernels is not None
    shape = case.shape
    dim, num_heads, num_kv_heads = shape.head_dim, shape.num_heads, shape.num_kv_heads
    torch.manual_seed(case.seed)
    plan = AttentionPlan(kernels, shape)
    keys, values = (
        torch.full((num_kv_heads, shape.num_slots * dim), torch.nan).to(shape.dtype) for _ in "kv"
    )
    written = torch.full((2, num_kv_heads, shape.num_slots, dim), torch.nan, dtype=torch.float64)
    seen_by = seen_slots(case)
    visible = sorted(set().union(*seen_by))

    def attend(slots: list[int], pieces: Sequence[Piece]) -> tuple[torch.Tensor, torch.Tensor]:
        projected = torch.randn(len(slots), num_heads + 2 * num_kv_heads, dim).to(shape.dtype)
        projected[:, :num_heads] *= case.loudness
        queries, new_keys, new_values = torch.split(projected, [num_heads, num_kv_heads, num_kv_heads], dim=1)
        plan.begin(pieces, torch.tensor(slots))
        out = plan.attend(queries, new_keys, new_values, keys, values)
        rows = [row for row, slot in enumerate(slots) if slot >= 0]
        where = [slots[row] for row in rows]
        written[0][:, where] = new_keys[rows].transpose(0, 1).double()
        written[1][:, where] = new_values[rows].transpose(0, 1).double()
        return queries.double(), out.double()

    attend(visible, [Piece(runs=[(visible[0], 1)], readers=[(0, len(visible), 1, 0)])])
    queries, out = attend(list(case.own_slots), case.pieces)
    all_keys = unpack(keys, shape, of_keys=True).double()
    all_values = unpack(values, shape, of_keys=False).double()
    assert torch.equal(all_keys.nan_to_num(1e9), written[0].nan_to_num(1e9))
    assert torch.equal(all_values.nan_to_num(1e9), written[1].nan_to_num(1e9))
    share = 2 * HALF_ULP if shape.dtype == torch.bfloat16 else 2e-6 * case.loudness
    for row, seen in enumerate(seen_by):
        grouped = queries[row].view(num_kv_heads, -1, dim)
        weights = (grouped @ all_keys[:, seen].transpose(1, 2) * dim**-0.5).softmax(dim=-1)
        exact = (weights @ all_values[:, seen]).view(num_heads, dim)
        scale = (weights @ all_values[:, seen].abs()).view(num_heads, dim)
        error = (out[row] - exact).abs()
        assert bool((error <= share * scale + 1e-5).all()), f"row {row}: {float((error / scale).max())}"


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=20)
@given(case=cases())
def test_native_attention_equals_its_definition(isa: Isa, case: Case) -> None:
    if load_native(isa) is None:
        pytest.skip(f"no native kernels for {isa} here")
    check(case, isa)
