"""The Triton kernels. With `TRITON_INTERPRET=1` they run on a CPU, slowly, which is how they are checked.

Softmax is computed online (FlashAttention, Dao et al. 2022); the partial results of items are merged by their
log-sum-exps (Hydragen, Juravsky et al. 2024).
"""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def attend_items(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    items,
    slots,
    entries,
    partial_out,
    partial_lse,
    query_stride,
    kv_head_stride,
    num_heads,
    scale,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_TILE: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
):
    """One item and one KV head: the query heads of all the item's entries over the item's slots.

    queries [rows, heads, HEAD_DIM]; keys, values [kv_heads, slots, HEAD_DIM] of one layer; partial_out
    [entries, heads, HEAD_DIM] and partial_lse [entries, heads], float32.
    """
    item = items + tl.program_id(0) * 4
    kv_head = tl.program_id(1)
    first_slot = tl.load(item)
    num_slots = tl.load(item + 1)
    first_entry = tl.load(item + 2)
    num_entries = tl.load(item + 3)

    lane = tl.arange(0, QUERY_TILE)
    is_query = lane < num_entries * GROUP
    entry = first_entry + lane // GROUP
    head = kv_head * GROUP + lane % GROUP
    row = tl.load(entries + entry * 2, mask=is_query, other=0)
    limit = tl.load(entries + entry * 2 + 1, mask=is_query, other=0)
    dim = tl.arange(0, HEAD_TILE)
    is_dim = dim < HEAD_DIM

    query_at = row[:, None].to(tl.int64) * query_stride + head[:, None] * HEAD_DIM + dim[None, :]
    query = tl.load(queries + query_at, mask=is_query[:, None] & is_dim[None, :], other=0.0)
    top = tl.full([QUERY_TILE], float("-inf"), tl.float32)
    total = tl.zeros([QUERY_TILE], tl.float32)
    mixed = tl.zeros([QUERY_TILE, HEAD_TILE], tl.float32)
    for start in range(0, num_slots, KEY_TILE):
        number = start + tl.arange(0, KEY_TILE)
        is_slot = number < num_slots
        slot = tl.load(slots + first_slot + number, mask=is_slot, other=0).to(tl.int64)
        at = kv_head.to(tl.int64) * kv_head_stride + slot[:, None] * HEAD_DIM + dim[None, :]
        is_value = is_slot[:, None] & is_dim[None, :]
        key = tl.load(keys + at, mask=is_value, other=0.0)
        score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        score = tl.where(number[None, :] < limit[:, None], score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight = tl.exp(score - base[:, None])
        kept = tl.exp(top - base)
        value = tl.load(values + at, mask=is_value, other=0.0)
        mixed = mixed * kept[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        total = total * kept + tl.sum(weight, 1)
        top = new_top

    whole = tl.where(is_query, total, 1.0)
    out_at = entry.to(tl.int64) * num_heads + head
    tl.store(partial_lse + out_at, top + tl.log(whole), mask=is_query)
    tl.store(
        partial_out + out_at[:, None] * HEAD_DIM + dim[None, :],
        mixed / whole[:, None],
        mask=is_query[:, None] & is_dim[None, :],
    )


@triton.jit  # type: ignore[untyped-decorator]
def merge_entries(  # type: ignore[no-untyped-def]
    partial_out,
    partial_lse,
    row_starts,
    row_entries,
    out,
    num_heads,
    HEAD_DIM: tl.constexpr,
    HEAD_TILE: tl.constexpr,
):
    """One row and one head: the mean of its entries, weighted by the exponentials of their log-sum-exps.

    out [rows, heads, HEAD_DIM].
    """
    row = tl.program_id(0)
    head = tl.program_id(1)
    dim = tl.arange(0, HEAD_TILE)
    is_dim = dim < HEAD_DIM
    first = tl.load(row_starts + row)
    end = tl.load(row_starts + row + 1)
    top = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    mixed = tl.zeros([HEAD_TILE], tl.float32)
    for at in range(first, end):
        entry = tl.load(row_entries + at).to(tl.int64)
        place = entry * num_heads + head
        lse = tl.load(partial_lse + place)
        new_top = tl.maximum(top, lse)
        kept = tl.exp(top - new_top)
        weight = tl.exp(lse - new_top)
        part = tl.load(partial_out + place * HEAD_DIM + dim, mask=is_dim, other=0.0)
        mixed = mixed * kept + part * weight
        total = total * kept + weight
        top = new_top
    result = (mixed / total).to(out.dtype.element_ty)
    tl.store(out + (row.to(tl.int64) * num_heads + head) * HEAD_DIM + dim, result, mask=is_dim)
