"""Memory behind KV blocks before they are written to."""

import ctypes
import logging
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import torch

from parrot.engine.torch.block_pool import BlockPool

logger = logging.getLogger(__name__)

_AHEAD_PARTS = 2
"""So many parts of the pool have memory before they are opened."""

_PIECE_BYTES = 1 << 20
"""Laid out at a time: a millisecond at most, which is what a request may have to wait for it."""

_MADV_POPULATE_WRITE = 23
"""Linux, since 5.14: give pages to a range as if it were written to, its contents left as they are."""


class Residency:
    """Has the system give pages to a cache's memory ahead of its use, while there is nothing else to do.

    A page that was never written to is found and cleared when the first token goes there: in a fill of some
    hundred tokens, which lie in as many places as there are layers and heads, that happens thousands of times
    and can take a quarter of its time where the machine is a virtual one. Only what the pool has opened, and
    the next parts, get pages: a cache's budget is not taken from the machine before it is used.
    """

    def __init__(self, pool: BlockPool, tensors: Sequence[torch.Tensor]) -> None:
        """`tensors` lie on the CPU, [layers, kv_heads, ...] each, with the blocks in order within."""
        self._pool = pool
        self._tensors = tensors  # held: their addresses are used
        self._end = 0
        """Blocks before it have pages, or are about to get them."""
        self._pieces: Iterator[tuple[int, int]] = iter(())
        self._populate = _find_populate()

    def extend(self) -> bool:
        """Lay out one more piece. False when everything has pages that should, or the system cannot do it."""
        if self._populate is None:
            return False
        piece = next(self._pieces, None)
        if piece is None:
            first, pool = self._end, self._pool
            self._end = min(pool.num_open + _AHEAD_PARTS * pool.part_blocks, pool.num_blocks)
            if first == self._end:
                return False
            self._pieces = self._ranges(first, self._end)
            piece = next(self._pieces)
        if not self._populate(*piece):
            self._populate = None
        return True

    def _ranges(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Addresses and sizes of some blocks' memory, in pages."""
        for tensor in self._tensors:
            row_bytes = tensor.stride(1) * tensor.element_size()
            num_rows = tensor.shape[0] * tensor.shape[1]
            for row in range(num_rows):
                at = tensor.data_ptr() + row * row_bytes
                begin = at + row_bytes * first // self._pool.num_blocks
                stop = at + row_bytes * end // self._pool.num_blocks
                begin -= begin % mmap.PAGESIZE
                for here in range(begin, stop, _PIECE_BYTES):
                    yield here, min(_PIECE_BYTES, stop - here)


def _find_populate() -> Callable[[int, int], bool] | None:
    """What gives pages to a range (address, bytes), and says whether it could; None where nothing does."""
    if not sys.platform.startswith("linux"):
        return None
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def populate(address: int, num_bytes: int) -> bool:
        if not madvise(address, num_bytes, _MADV_POPULATE_WRITE):
            return True
        logger.debug("KV memory gets its pages as it is used: %s", os.strerror(ctypes.get_errno()))
        return False

    return populate
