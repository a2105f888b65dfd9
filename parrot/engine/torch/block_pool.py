"""Which KV blocks are free; needs no torch."""

from collections.abc import Iterable, Sequence

Run = tuple[int, int]
"""Consecutive blocks or slots: the first one's number, and how many."""


_PARTS = 32
"""The pool is opened in so many parts, or fewer that have `_MIN_PART_BLOCKS` each."""

_MIN_PART_BLOCKS = 64

_ROOM_BLOCKS = 8
"""A new run has so many free blocks to grow into while there are parts to be opened."""


class BlockPool:
    """The free blocks, kept as maximal runs.

    A context grows where it ends when the next block is free. A new run begins in the middle of the largest
    free run, so that neighbours leave each other room to grow.

    Blocks that were never taken have no memory behind them yet, and what is written there first waits for the
    system. So a pool is opened part by part: runs are looked for in what is open, where most was used before,
    and the next part is opened when they find too little room there.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self.num_open = 0
        """The first so many blocks are open."""
        self.part_blocks = max(-(-num_blocks // _PARTS), _MIN_PART_BLOCKS)
        """As many blocks are opened at a time."""
        self._length: dict[int, int] = {}
        self._start: dict[int, int] = {}
        """Free runs of what is open by their first block, and by the block after their last."""
        self._open()

    def take(self, num_blocks: int, *, after: int | None = None) -> list[Run]:
        """Take `num_blocks` blocks, beginning with block `after` if that is free.

        The caller has checked `num_free`. Returns as few runs as the pool's state allows without a search.
        """
        assert num_blocks <= self.num_free
        runs: list[Run] = []
        if after == self.num_open:
            self._open()
        if after is not None and after in self._length:
            count = min(num_blocks, self._length[after])
            self._carve(after, after, count)
            runs.append((after, count))
            num_blocks -= count
        while num_blocks:
            first = max(self._length, key=self._length.__getitem__, default=-1)
            length = self._length.get(first, 0)
            if length < num_blocks + _ROOM_BLOCKS and self.num_open < self.num_blocks:
                self._open()
                continue
            at = first + length // 2 if length // 2 >= num_blocks else first
            count = min(num_blocks, first + length - at)
            self._carve(first, at, count)
            runs.append((at, count))
            num_blocks -= count
        return runs

    def give(self, runs: Iterable[Run]) -> None:
        """Give runs back; they merge with their free neighbours."""
        for first, count in runs:
            self.num_free += count
            self._add(first, first + count)

    def free_runs(self) -> list[Run]:
        """The free runs in order, for checks."""
        closed = [(self.num_open, self.num_blocks - self.num_open)]
        return sorted(self._length.items()) + (closed if self.num_open < self.num_blocks else [])

    def _open(self) -> None:
        """Let runs be taken of the next part, if there is one."""
        first = self.num_open
        self.num_open = min(first + self.part_blocks, self.num_blocks)
        if first < self.num_open:
            self._add(first, self.num_open)

    def _add(self, first: int, end: int) -> None:
        """Add a free run; it merges with its free neighbours."""
        if first in self._start:
            first = self._start.pop(first)
            del self._length[first]
        if end in self._length:
            length = self._length.pop(end)
            end += length
            del self._start[end]
        self._insert(first, end)

    def _carve(self, run: int, at: int, count: int) -> None:
        end = run + self._length.pop(run)
        del self._start[end]
        self.num_free -= count
        if run < at:
            self._insert(run, at)
        if at + count < end:
            self._insert(at + count, end)

    def _insert(self, first: int, end: int) -> None:
        self._length[first] = end - first
        self._start[end] = first


def slots_of(runs: Sequence[Run], num_tokens: int, block_tokens: int) -> tuple[Run, ...]:
    """The slot runs of the first `num_tokens` tokens that lie in block runs `runs`."""
    slots: list[Run] = []
    for first, count in runs:
        here = min(num_tokens, count * block_tokens)
        if here <= 0:
            break
        slots.append((first * block_tokens, here))
        num_tokens -= here
    assert num_tokens <= 0
    return tuple(slots)
