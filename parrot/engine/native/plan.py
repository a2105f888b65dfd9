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
"""Consecutive rows of a step that read a piece: the first one's number, how many rows, how many of the piece's
tokens the first one sees, and how many more each next one sees."""


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
class Rotation:
    """Rotary embeddings of a step's rows, and norms before them."""

    cosines: torch.Tensor
    """[positions, head_dim / 2], float32."""
    sines: torch.Tensor
    positions: torch.Tensor
    """[rows], int64."""
    norm_eps: float


class AttentionPlan:
    """Attention of one step after the other, over one cache."""

    def __init__(self, kernels: NativeKernels, shape: AttentionShape) -> None:
        self.shape = shape
        self._library = kernels.library
        self._plan = kernels.library.parrot_plan_new(
            kernels.isa_number,
            TYPE_NUMBERS[shape.dtype],
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            shape.num_slots * shape.head_dim,
            shape.head_dim**-0.5,
        )
        if not self._plan:
            raise MemoryError("no memory for an attention plan")
        weakref.finalize(self, kernels.library.parrot_plan_free, self._plan)
        self._num_rows = 0

    def build(self, num_rows: int, pieces: Sequence[Piece]) -> None:
        """Divide a step's attention among the threads that torch uses in this thread."""
        assert all(_is_readable(piece, num_rows, self.shape.num_slots) for piece in pieces)
        sizes = array("q", [n for piece in pieces for n in (len(piece.runs), len(piece.readers))])
        runs = array("q", [n for piece in pieces for run in piece.runs for n in run])
        readers = array("q", [n for piece in pieces for rows in piece.readers for n in rows])
        num_items = self._library.parrot_plan_build(
            self._plan,
            num_rows,
            len(pieces),
            sizes.buffer_info()[0],
            runs.buffer_info()[0],
            readers.buffer_info()[0],
        )
        if num_items < 0:
            raise MemoryError("no memory for the attention of a step")
        self._num_rows = num_rows

    def rotate_and_write(
        self,
        projected: torch.Tensor,
        rotation: Rotation,
        slots: torch.Tensor,
        norms: tuple[torch.Tensor | None, torch.Tensor | None],
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> None:
        """Rotate the queries and keys of `projected` ([rows, queries, keys and values side by side]), and put
        keys and values at `slots` ([rows], int64; below 0: nowhere) of one layer's cache.

        `norms` are the weights of the queries' and the keys' norm, where the model has them. Queries are left
        in `projected` for `attend`; its keys are left in an unspecified state.
        """
        num_rows = projected.shape[0]
        assert projected.shape[1] == self.shape.row_size
        assert self._is_of_layer(keys, values)
        assert projected.is_contiguous()
        assert slots.dtype == rotation.positions.dtype == torch.int64
        assert slots.shape == rotation.positions.shape == (num_rows,)
        query_norm, key_norm = norms
        self._library.parrot_rotate_and_write(
            self._plan,
            projected.data_ptr(),
            num_rows,
            rotation.cosines.data_ptr(),
            rotation.sines.data_ptr(),
            rotation.positions.data_ptr(),
            slots.data_ptr(),
            None if query_norm is None else query_norm.data_ptr(),
            None if key_norm is None else key_norm.data_ptr(),
            rotation.norm_eps,
            keys.data_ptr(),
            values.data_ptr(),
        )

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Attention of the built step over one layer's cache, `keys` and `values` ([kv_heads, num_slots ·
        head_dim] each).

        `queries` has at least heads · head_dim elements in a row. Returns [rows, heads · head_dim].
        """
        shape = self.shape
        assert queries.shape[0] == self._num_rows
        assert queries.dtype == shape.dtype
        assert queries.stride(1) == 1
        assert self._is_of_layer(keys, values)
        out = torch.empty((self._num_rows, shape.num_heads * shape.head_dim), dtype=shape.dtype)
        self._library.parrot_attend(
            self._plan,
            queries.data_ptr(),
            queries.stride(0),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
        )
        return out

    def _is_of_layer(self, keys: torch.Tensor, values: torch.Tensor) -> bool:
        size = (self.shape.num_kv_heads, self.shape.num_slots * self.shape.head_dim)
        return all(
            part.shape == size and part.dtype == self.shape.dtype and part.is_contiguous()
            for part in (keys, values)
        )


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
