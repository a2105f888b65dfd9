"""A step's attention for the kernels: which rows see which slots of the cache."""

import weakref
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from parrot.engine.native.kernels import TYPE_NUMBERS, NativeKernels

TILE_SLOTS = 16
"""Slots that the cache's layout keeps together; see `csrc/kernels.h`."""

Run = tuple[int, int]
"""Consecutive slots: the first one's number, and how many."""

Rows = tuple[int, int, int, int]
"""Consecutive rows of a step that read a piece: the first one's number, how many rows, how many of its tokens
the first one sees, and how many more each next one sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Tokens in the cache, read once for all their readers together.

    A row may read several pieces; what it finds in each is merged. Every row sees at least one token.
    """

    runs: Sequence[Run]
    """The tokens' slots, in order."""
    readers: Sequence[Rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """The sizes of a model's attention and of its cache."""

    dtype: torch.dtype
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_slots: int
    """A multiple of `TILE_SLOTS`."""

    def __post_init__(self) -> None:
        assert self.num_heads % self.num_kv_heads == 0
        assert self.head_dim % 16 == 0
        assert self.num_slots % TILE_SLOTS == 0


class AttentionPlan:
    """Attention of one step after the other, over one cache."""

    def __init__(self, kernels: NativeKernels, shape: AttentionShape) -> None:
        self.shape = shape
        self.kernels = kernels
        self._library = kernels.library
        self.handle = kernels.library.parrot_plan_new(
            kernels.handle,
            TYPE_NUMBERS[shape.dtype],
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            shape.num_slots * shape.head_dim,
            shape.head_dim**-0.5,
        )
        if not self.handle:
            raise MemoryError("no memory for an attention plan")
        freed = weakref.finalize(self, kernels.library.parrot_plan_free, self.handle)
        # At the interpreter's end a thread may still be computing, and the memory goes anyway.
        freed.atexit = False
        self._slots = torch.empty(0, dtype=torch.int64)

    def begin(self, pieces: Sequence[Piece], slots: torch.Tensor) -> None:
        """Divide a step's attention among the threads.

        `slots` ([rows], int64) are where the rows' keys and values go; below 0: nowhere.
        """
        num_rows = slots.shape[0]
        assert slots.dtype == torch.int64
        assert int(slots.max()) < self.shape.num_slots
        assert all(_is_readable(piece, num_rows, self.shape.num_slots) for piece in pieces)
        sizes = array("q", [n for piece in pieces for n in (len(piece.runs), len(piece.readers))])
        runs = array("q", [n for piece in pieces for run in piece.runs for n in run])
        readers = array("q", [n for piece in pieces for rows in piece.readers for n in rows])
        failed = self._library.parrot_plan_begin(
            self.handle,
            num_rows,
            len(pieces),
            sizes.buffer_info()[0],
            runs.buffer_info()[0],
            readers.buffer_info()[0],
            slots.data_ptr(),
        )
        if failed:
            raise MemoryError("no memory for the attention of a step")
        self._slots = slots

    def attend(
        self,
        queries: torch.Tensor,
        new_keys: torch.Tensor,
        new_values: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """One layer of the step that has begun: put `new_keys` and `new_values` ([rows, kv_heads, head_dim])
        into the layer's cache, `keys` and `values` ([kv_heads, num_slots · head_dim] each), and let `queries`
        ([rows, heads, head_dim]) attend. Returns [rows, heads, head_dim].
        """
        shape = self.shape
        num_rows = self._slots.shape[0]
        assert queries.shape == (num_rows, shape.num_heads, shape.head_dim)
        assert new_keys.shape == new_values.shape == (num_rows, shape.num_kv_heads, shape.head_dim)
        assert queries.dtype == new_keys.dtype == new_values.dtype == shape.dtype
        assert self._is_layer(keys)
        assert self._is_layer(values)
        queries, new_keys, new_values = (
            _side_by_side(queries),
            _side_by_side(new_keys),
            _side_by_side(new_values),
        )
        out = torch.empty((num_rows, shape.num_heads, shape.head_dim), dtype=shape.dtype)
        self._library.parrot_attend(
            self.handle,
            queries.data_ptr(),
            queries.stride(0),
            new_keys.data_ptr(),
            new_keys.stride(0),
            new_values.data_ptr(),
            new_values.stride(0),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
        )
        return out

    def _is_layer(self, part: torch.Tensor) -> bool:
        size = (self.shape.num_kv_heads, self.shape.num_slots * self.shape.head_dim)
        return part.shape == size and part.dtype == self.shape.dtype and part.is_contiguous()


def _side_by_side(heads: torch.Tensor) -> torch.Tensor:
    """With the heads of a row one after the other, as they are in a slice of a projection."""
    strides = heads.stride()
    return heads if strides[2] == 1 and strides[1] == heads.shape[2] else heads.contiguous()


def _is_readable(piece: Piece, num_rows: int, num_slots: int) -> bool:
    """The piece lies in the cache, and its readers are rows of the step and see no more than there is."""
    num_tokens = sum(count for _, count in piece.runs)
    in_cache = all(first >= 0 and count > 0 and first + count <= num_slots for first, count in piece.runs)
    return in_cache and all(
        first >= 0
        and count > 0
        and first + count <= num_rows
        and limit > 0
        and more >= 0
        and limit + more * (count - 1) <= num_tokens
        for first, count, limit, more in piece.readers
    )
