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

    @property
    def row_size(self) -> int:
        """Elements of one row of queries, keys and values."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary position embedding, and the epsilon of the norms before it."""

    cosines: torch.Tensor
    """[positions, head_dim / 2], float32."""
    sines: torch.Tensor
    norm_eps: float

    def __post_init__(self) -> None:
        assert self.cosines.dtype == self.sines.dtype == torch.float32
        assert self.cosines.is_contiguous()
        assert self.sines.is_contiguous()


class AttentionPlan:
    """Attention of one step after the other, over one cache."""

    def __init__(self, kernels: NativeKernels, shape: AttentionShape, rotary: Rotary) -> None:
        assert rotary.cosines.shape == rotary.sines.shape
        assert rotary.cosines.shape[1] == shape.head_dim // 2
        self.shape = shape
        self._rotary = rotary
        self._library = kernels.library
        self._plan = kernels.library.parrot_plan_new(
            kernels.isa_number,
            TYPE_NUMBERS[shape.dtype],
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            shape.num_slots * shape.head_dim,
            shape.head_dim**-0.5,
            rotary.cosines.data_ptr(),
            rotary.sines.data_ptr(),
            rotary.norm_eps,
        )
        if not self._plan:
            raise MemoryError("no memory for an attention plan")
        weakref.finalize(self, kernels.library.parrot_plan_free, self._plan)
        self._positions = self._slots = torch.empty(0, dtype=torch.int64)

    def begin(self, pieces: Sequence[Piece], positions: torch.Tensor, slots: torch.Tensor) -> None:
        """Divide a step's attention among the threads that torch uses in this thread.

        `positions` and `slots` ([rows], int64) are those of the step's tokens; a key at a slot below 0 is
        written nowhere.
        """
        num_rows = positions.shape[0]
        assert positions.shape == slots.shape == (num_rows,)
        assert positions.dtype == slots.dtype == torch.int64
        assert int(positions.max()) < self._rotary.cosines.shape[0]
        assert int(slots.max()) < self.shape.num_slots
        assert all(_is_readable(piece, num_rows, self.shape.num_slots) for piece in pieces)
        sizes = array("q", [n for piece in pieces for n in (len(piece.runs), len(piece.readers))])
        runs = array("q", [n for piece in pieces for run in piece.runs for n in run])
        readers = array("q", [n for piece in pieces for rows in piece.readers for n in rows])
        num_items = self._library.parrot_plan_begin(
            self._plan,
            num_rows,
            len(pieces),
            sizes.buffer_info()[0],
            runs.buffer_info()[0],
            readers.buffer_info()[0],
            positions.data_ptr(),
            slots.data_ptr(),
        )
        if num_items < 0:
            raise MemoryError("no memory for the attention of a step")
        self._positions, self._slots = positions, slots

    def attend(
        self,
        projected: torch.Tensor,
        norms: tuple[torch.Tensor, torch.Tensor] | None,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """One layer of the step that has begun: rotate the queries and keys of `projected` ([rows, queries,
        keys and values side by side]), put keys and values into the layer's cache (`keys`, `values`:
        [kv_heads, num_slots · head_dim] each), and attend.

        `norms` are the weights of the queries' and the keys' norm ([head_dim] each), where the model has any.
        Returns [rows, heads · head_dim]. Of `projected`, the rotated queries are left.
        """
        shape = self.shape
        num_rows = self._slots.shape[0]
        assert projected.shape == (num_rows, shape.row_size)
        assert projected.dtype == shape.dtype
        assert projected.is_contiguous()
        assert self._is_layer(keys)
        assert self._is_layer(values)
        out = torch.empty((num_rows, shape.num_heads * shape.head_dim), dtype=shape.dtype)
        self._library.parrot_attend(
            self._plan,
            projected.data_ptr(),
            None if norms is None else norms[0].data_ptr(),
            None if norms is None else norms[1].data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
        )
        return out

    def _is_layer(self, part: torch.Tensor) -> bool:
        size = (self.shape.num_kv_heads, self.shape.num_slots * self.shape.head_dim)
        return part.shape == size and part.dtype == self.shape.dtype and part.is_contiguous()


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
