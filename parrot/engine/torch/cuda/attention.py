"""The engine's attention by the Triton kernels. Import it only where Triton is installed."""

import torch
import triton

from parrot.engine.native.plan import Piece
from parrot.engine.torch.cuda.kernels import attend_items, merge_entries
from parrot.engine.torch.cuda.pieces import WorkTables, build_tables, empty_tables
from parrot.engine.torch.kv_cache import KvCache
from parrot.engine.torch.native_attention import divide
from parrot.engine.torch.step_input import StepInput

_MIN_TILE = 16
"""The device multiplies tiles of no fewer rows."""
_MAX_TILE = 64
_KEY_TILE = 64


class TritonAttention:
    """Attention of any depth of sharing; with `shares` False every request reads all it sees by itself."""

    def __init__(self, cache: KvCache, *, num_heads: int, shares: bool = True) -> None:
        self._cache = cache
        self._shares = shares
        self._num_heads = num_heads
        self._group = num_heads // cache.shape.num_kv_heads
        self._tile = _MIN_TILE
        self._slots = torch.empty(0, dtype=torch.int64)
        self._tables: WorkTables | None = None
        self._padded: dict[int, WorkTables] = {}
        """Tables that keep their places, by the rows they are for."""

    def begin(self, step: StepInput) -> None:
        """Divide the step's attention into items, the same for all layers."""
        pieces = divide(step.rows, shares=self._shares)
        most = max(sum(count for _, count, _, _ in piece.readers) for piece in pieces)
        wanted = triton.next_power_of_2(most * self._group)
        self._tile = max(_MIN_TILE, triton.next_power_of_2(self._group), min(_MAX_TILE, wanted))
        self._slots = step.slots
        self._tables = build_tables(
            pieces,
            num_rows=step.token_ids.shape[0],
            readers_per_item=self._tile // self._group,
            device=step.slots.device,
        )

    def begin_padded(self, step: StepInput, slots: torch.Tensor, context_tokens: int) -> bool:
        """As `begin`, for a step of single rows that is filled up to as many rows as `slots` has; all that
        `attend` launches then depends on that number alone, and reads tables that stay where they are, with
        room for contexts of `context_tokens`. False when a step does not fit into them.
        """
        num_rows, count = len(slots), len(step.rows)
        pieces = divide(step.rows, shares=self._shares)
        if count < num_rows:
            first = pieces[0].runs[0][0]
            pieces.append(Piece(runs=((first, 1),), readers=[(count, num_rows - count, 1, 0)]))
        self._tile = max(
            _MIN_TILE,
            triton.next_power_of_2(self._group),
            min(_MAX_TILE, triton.next_power_of_2(num_rows * self._group)),
        )
        found = build_tables(
            pieces, num_rows=num_rows, readers_per_item=self._tile // self._group, device=slots.device
        )
        if num_rows not in self._padded:
            self._padded[num_rows] = empty_tables(
                num_rows,
                num_slots=self._cache.scratch_slot,
                context_tokens=context_tokens,
                device=slots.device,
            )
        self._tables = self._padded[num_rows]
        self._slots = slots
        return self._tables.take(found)

    def attend(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """One layer; shapes as in `models.decoder.Attend`."""
        cache, tables = self._cache, self._tables
        assert tables is not None
        cache.write(layer, self._slots, keys, values)
        num_rows, num_heads, head_dim = queries.shape
        if queries.stride()[1:] != (head_dim, 1):
            queries = queries.contiguous()
        num_entries = tables.entries.shape[0]
        head_tile = max(_MIN_TILE, triton.next_power_of_2(head_dim))
        device = queries.device
        parts = torch.empty(num_entries, num_heads, head_dim, dtype=torch.float32, device=device)
        lses = torch.empty(num_entries, num_heads, dtype=torch.float32, device=device)
        attend_items[(tables.items.shape[0], cache.shape.num_kv_heads)](
            queries,
            cache.keys[layer],
            cache.values[layer],
            tables.items,
            tables.slots,
            tables.entries,
            parts,
            lses,
            queries.stride(0),
            cache.keys[layer].stride(0),
            num_heads,
            head_dim**-0.5,
            GROUP=self._group,
            HEAD_DIM=head_dim,
            HEAD_TILE=head_tile,
            QUERY_TILE=self._tile,
            KEY_TILE=_KEY_TILE,
        )
        out = torch.empty(num_rows, num_heads, head_dim, dtype=queries.dtype, device=device)
        merge_entries[(num_rows, num_heads)](
            parts,
            lses,
            tables.row_starts,
            tables.row_entries,
            out,
            num_heads,
            HEAD_DIM=head_dim,
            HEAD_TILE=head_tile,
        )
        return out
