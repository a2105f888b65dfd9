"""A step's attention as tables for the kernels.

    piece    [══════ slots ══════]  split every `SPLIT_TOKENS`, so that a long prefix keeps the device busy
    readers  ▪▪▪▪▪▪▪▪▪▪▪▪           as many as fit into one tile of queries
             └─ item ─┘└─ item ─┘

An **item** is some of a piece's slots for some of its readers. Each reader of an item is an **entry**: a
partial result of one row, which the merge finds by the row's number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from parrot.engine.native.plan import Piece

SPLIT_TOKENS = 512
"""Slots of one item at most."""

_USUAL_BRANCHES = 8
_MAX_ENTRIES = 1 << 13
"""Of tables that stay where they are: every one of them costs something also in steps that have fewer."""

Entry = tuple[int, int]
"""A row, and how many of an item's slots it sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkTables:
    """All tables are int32."""

    items: torch.Tensor
    """[items, 4]: first slot number's place in `slots`, how many slots, first entry, how many entries."""
    slots: torch.Tensor
    """Slot numbers of all pieces, one after the other."""
    entries: torch.Tensor
    """[entries, 2]: the row, and how many of the item's slots it sees."""
    row_starts: torch.Tensor
    """[rows + 1]: where each row's part of `row_entries` begins."""
    row_entries: torch.Tensor
    """Numbers of each row's entries, row by row."""

    def take(self, other: "WorkTables") -> bool:
        """Take over what `other` says; items that are left over have no entries. False, and nothing done,
        when it does not fit.
        """
        pairs = [(getattr(self, name), getattr(other, name)) for name in WorkTables.__slots__]
        if any(len(found) > len(kept) for kept, found in pairs):
            return False
        self.items.zero_()
        for kept, found in pairs:
            kept[: len(found)] = found
        return True


def build_tables(
    pieces: Sequence[Piece], *, num_rows: int, readers_per_item: int, device: torch.device
) -> WorkTables:
    """Tables for a step of `num_rows` rows, of which each reads at least one slot of one piece."""
    items: list[tuple[int, int, int, int]] = []
    slots: list[int] = []
    entries: list[Entry] = []
    for piece in pieces:
        first_slot = len(slots)
        slots += [slot for first, count in piece.runs for slot in range(first, first + count)]
        readers = list(_entries(piece))
        for start in range(0, len(slots) - first_slot, SPLIT_TOKENS):
            num_slots = min(SPLIT_TOKENS, len(slots) - first_slot - start)
            seeing = [(row, min(limit - start, num_slots)) for row, limit in readers if limit > start]
            for at in range(0, len(seeing), readers_per_item):
                some = seeing[at : at + readers_per_item]
                items.append((first_slot + start, num_slots, len(entries), len(some)))
                entries += some
    by_row: list[list[int]] = [[] for _ in range(num_rows)]
    for number, (row, _) in enumerate(entries):
        by_row[row].append(number)
    starts = [0]
    for numbers in by_row:
        starts.append(starts[-1] + len(numbers))

    def table(values: object) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32).to(device, non_blocking=True)

    return WorkTables(
        items=table(items),
        slots=table(slots),
        entries=table(entries),
        row_starts=table(starts),
        row_entries=table([number for numbers in by_row for number in numbers]),
    )


def empty_tables(num_rows: int, *, num_slots: int, context_tokens: int, device: torch.device) -> WorkTables:
    """Room for steps of `num_rows` single rows, each with a context of up to `context_tokens` that branches a
    few times, over a cache of `num_slots`.
    """
    num_entries = min(_MAX_ENTRIES, num_rows * (-(-context_tokens // SPLIT_TOKENS) + _USUAL_BRANCHES))
    num_slots = min(num_slots, num_rows * context_tokens)

    def room(*size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.int32, device=device)

    return WorkTables(
        items=room(num_entries, 4),
        slots=room(num_slots + num_rows),
        entries=room(num_entries, 2),
        row_starts=room(num_rows + 1),
        row_entries=room(num_entries),
    )


def _entries(piece: Piece) -> Iterator[Entry]:
    for first, count, limit, more in piece.readers:
        for row in range(count):
            yield first + row, limit + more * row
