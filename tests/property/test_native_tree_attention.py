"""Native attention over random pieces, fragmented caches and all instruction sets, against its definition.

The cache is full of NaN where nothing was written: what a row may not see must not reach it in any way.
"""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parrot.engine.native.kernels import load_native
from parrot.engine.native.library import ISAS, Isa
from parrot.engine.native.plan import TILE_SLOTS, AttentionPlan, AttentionShape, Piece, Rotary

NUM_POSITIONS = 64
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
    has_norms: bool
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
    lengths = draw(st.lists(st.integers(1, 290), min_size=1, max_size=4))
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
        has_norms=draw(st.booleans()),
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


def rotated(heads: torch.Tensor, norm: torch.Tensor | None, rotary: Rotary, at: torch.Tensor) -> torch.Tensor:
    """[rows, heads, head_dim] after norm and rotation."""
    dtype = heads.dtype
    if norm is not None:
        wide = heads.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + rotary.norm_eps)
        heads = (wide.to(dtype).float() * norm.float()).to(dtype)
    first, second = heads.float().chunk(2, dim=-1)
    cosines, sines = rotary.cosines[at][:, None], rotary.sines[at][:, None]
    turned = torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
    return turned.to(dtype)


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
    angles = torch.rand(NUM_POSITIONS, dim // 2) * 6.3
    rotary = Rotary(cosines=angles.cos(), sines=angles.sin(), norm_eps=1e-6)
    plan = AttentionPlan(kernels, shape, rotary)
    keys, values = (
        torch.full((num_kv_heads, shape.num_slots * dim), torch.nan).to(shape.dtype) for _ in "kv"
    )
    norms = None
    if case.has_norms:
        norms = ((torch.rand(dim) + 0.5).to(shape.dtype), (torch.rand(dim) + 0.5).to(shape.dtype))

    seen_by = seen_slots(case)
    visible = sorted(set().union(*seen_by))
    before = torch.randn(len(visible), shape.row_size).to(shape.dtype)
    places = torch.randint(NUM_POSITIONS, (len(visible),))
    plan.begin(
        [Piece(runs=[(visible[0], 1)], readers=[(0, len(visible), 1, 0)])], places, torch.tensor(visible)
    )
    plan.attend(before.clone(), norms, keys, values)

    projected = torch.randn(case.num_rows, shape.row_size).to(shape.dtype)
    given_rows, positions = projected.clone(), torch.randint(NUM_POSITIONS, (case.num_rows,))
    plan.begin(case.pieces, positions, torch.tensor(case.own_slots))
    out = plan.attend(projected, norms, keys, values).view(case.num_rows, num_heads, dim)

    all_keys = unpack(keys, shape, of_keys=True).double()
    all_values = unpack(values, shape, of_keys=False).double()
    own = set(case.own_slots)
    ulp = 2 * HALF_ULP if shape.dtype == torch.bfloat16 else 1e-5
    # Where a norm comes first, its rounding may fall to the other side, and then be rotated into a small sum.
    slack = 0.05 if norms is not None and shape.dtype == torch.bfloat16 else 1e-6
    for rows, at, slots in ((before, places, visible), (given_rows, positions, list(case.own_slots))):
        stays = [i for i, slot in enumerate(slots) if slot >= 0]
        if rows is before:
            stays = [i for i in stays if slots[i] not in own]
        heads = rows.view(len(slots), -1, dim)[:, num_heads:]
        expected = rotated(heads[:, :num_kv_heads], None if norms is None else norms[1], rotary, at)
        where = [slots[i] for i in stays]
        torch.testing.assert_close(
            all_keys[:, where].transpose(0, 1), expected[stays].double(), rtol=ulp, atol=slack
        )
        assert torch.equal(all_values[:, where].transpose(0, 1), heads[stays][:, num_kv_heads:].double())

    queries = projected.view(case.num_rows, -1, dim)[:, :num_heads]
    expected = rotated(
        given_rows.view(case.num_rows, -1, dim)[:, :num_heads], norms and norms[0], rotary, positions
    )
    torch.testing.assert_close(queries, expected, rtol=ulp, atol=slack)
    share = 2 * HALF_ULP if shape.dtype == torch.bfloat16 else 2e-6
    for row, seen in enumerate(seen_by):
        grouped = queries[row].double().view(num_kv_heads, -1, dim)
        weights = (grouped @ all_keys[:, seen].transpose(1, 2) * dim**-0.5).softmax(dim=-1)
        exact = (weights @ all_values[:, seen]).view(num_heads, dim)
        scale = (weights @ all_values[:, seen].abs()).view(num_heads, dim)
        error = (out[row].double() - exact).abs()
        assert bool((error <= share * scale + 1e-5).all()), f"row {row}: {float((error / scale).max())}"


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=25)
@given(case=cases())
def test_native_attention_equals_its_definition(isa: Isa, case: Case) -> None:
    if load_native(isa) is None:
        pytest.skip(f"no native kernels for {isa} here")
    check(case, isa)
