"""Attention that reads what several requests share once for all of them (paper, section 7).

    shared span   [════════════════]  ← the queries of all its readers, one dense product
    private       [···][··][·····]    ← few tokens each: batched;  many: each a dense product in place
    own chunk     [◣]                 ← causal

The pieces of one query are merged by their log-sum-exps. The tree may have any depth: each node is a span of
its own, and whoever sees the same tokens of the same context reads them together.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import torch

from parrot.engine.torch.block_pool import Run
from parrot.engine.torch.kv_cache import KvCache
from parrot.engine.torch.models.decoder import AttentionTraits
from parrot.engine.torch.partial_attention import (
    CausalPartial,
    DensePartial,
    GatheredPartial,
    PaddedPartial,
    Partial,
    Rows,
    StepTensors,
)
from parrot.engine.torch.step_input import QueryRows, Span, StepInput
from parrot.engine.torch.windows import apply_window

MIN_SHARED_TOKENS = 32
"""A shorter span is cheaper to copy for each reader than to read and merge on its own."""
MAX_PADDED_TOKENS = 256
"""Private tokens of one request up to which copying them into a batch is cheaper than a call of its own."""


class TreeAttention:
    """Attention in pieces; with `shares` False every request reads all it sees by itself.

    It knows windows, and neither caps nor sinks (`models.decoder.AttentionTraits`).
    """

    def __init__(self, cache: KvCache, traits: AttentionTraits, *, shares: bool = True) -> None:
        assert traits.softcap is None
        assert not traits.sinks
        self._cache = cache
        self._shares = shares
        self._windows = traits.windows or (None,) * cache.shape.num_layers
        self._slots = torch.empty(0, dtype=torch.int64)
        self._partials: dict[int | None, list[tuple[Partial, bool]]] = {}
        """For each window, the pieces, and whether a piece's rows have none before it."""

    def begin(self, step: StepInput) -> None:
        """Divide the step's attention into pieces, the same for all layers that have the same window."""
        self._slots = step.slots
        self._partials = {window: self._divide(step, window) for window in set(self._windows)}

    def _divide(self, step: StepInput, window: int | None) -> list[tuple[Partial, bool]]:
        device = step.slots.device
        rows, bands = (step.rows, []) if window is None else apply_window(step.rows, window, device)
        pieces: list[Piece] = [
            *bands,
            *divide(rows, shares=self._shares, scratch_slot=self._cache.scratch_slot, device=device),
        ]
        seen: set[int] = set()
        partials: list[tuple[Partial, bool]] = []
        for partial, numbers in pieces:
            is_first = seen.isdisjoint(numbers)
            assert is_first or seen.issuperset(numbers), "rows of one piece have all been seen, or none"
            seen.update(numbers)
            partials.append((partial, is_first))
        return partials

    def attend(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """One layer; shapes as in `models.decoder.Attend`."""
        self._cache.write(layer, self._slots, keys, values)
        step = StepTensors(layer=layer, queries=queries, keys=keys, values=values)
        partials = self._partials[self._windows[layer]]
        if len(partials) == 1:
            return partials[0][0].compute(step, self._cache)[0]
        out = torch.empty(queries.shape, dtype=torch.float32, device=queries.device)
        lse = torch.empty(queries.shape[:2], dtype=torch.float32, device=queries.device)
        for partial, is_first in partials:
            part, part_lse = partial.compute(step, self._cache)
            if is_first:
                out[partial.rows] = part.float()
                lse[partial.rows] = part_lse
            else:
                _merge(out, lse, partial.rows, part, part_lse)
        return out.to(queries.dtype)


Piece = tuple[Partial, list[int]]
"""A piece and its rows' numbers."""


def divide(
    all_rows: Sequence[QueryRows], *, shares: bool, scratch_slot: int, device: torch.device
) -> list[Piece]:
    """A step's pieces: first those that give every row its first one, then what is merged into them."""
    first: list[Piece] = []
    merged: list[Piece] = []
    padded: list[tuple[int, list[Run]]] = []
    shared = _find_shared(all_rows) if shares else {}
    num_single = sum(rows.num_rows == 1 for rows in all_rows)
    for rows in all_rows:
        runs = [run for span in rows.spans if span not in shared for run in span.slots]
        target = first
        if rows.num_rows > 1:
            first.append((CausalPartial(rows=rows.slice), rows.numbers))
            target = merged
        else:
            runs = _join([*runs, *rows.own])
            is_short = num_single > 1 and sum(count for _, count in runs) <= MAX_PADDED_TOKENS
            if shares and (is_short or not runs):
                padded.append((rows.first, runs))
                continue
        for piece in _private_pieces(rows, runs, shares=shares, device=device):
            target.append((piece, rows.numbers))
            target = merged
    if padded:
        first.append((_pad(padded, scratch_slot, device), [row for row, _ in padded]))
    for span, numbers in shared.items():
        where = _as_rows(numbers, device)
        merged += [(DensePartial(rows=where, run=run), numbers) for run in span.slots]
    return first + merged


def _find_shared(all_rows: Sequence[QueryRows]) -> dict[Span, list[int]]:
    """The spans worth reading once for several readers, each with the rows that read it."""
    numbers: defaultdict[Span, list[int]] = defaultdict(list)
    num_readers: Counter[Span] = Counter()
    for rows in all_rows:
        for span in rows.spans:
            numbers[span] += rows.numbers
            num_readers[span] += 1
    return {
        span: numbers[span]
        for span, count in num_readers.items()
        if count > 1 and span.num_tokens >= MIN_SHARED_TOKENS
    }


def _private_pieces(
    rows: QueryRows, runs: Sequence[Run], *, shares: bool, device: torch.device
) -> list[Partial]:
    if shares or len(runs) < 2:
        return [DensePartial(rows=rows.slice, run=run) for run in runs]
    return [GatheredPartial(rows=rows.slice, slots=torch.tensor(_slots(runs), device=device))]


def _pad(
    padded: Sequence[tuple[int, Sequence[Run]]], scratch_slot: int, device: torch.device
) -> PaddedPartial:
    lists = [_slots(runs) for _, runs in padded]
    longest = max(1, *map(len, lists))
    slots = torch.tensor([slots + [scratch_slot] * (longest - len(slots)) for slots in lists], device=device)
    return PaddedPartial(
        rows=_as_rows([row for row, _ in padded], device),
        slots=slots,
        is_padding=(slots == scratch_slot)[:, None, None, :],
    )


def _slots(runs: Sequence[Run]) -> list[int]:
    return [slot for first, count in runs for slot in range(first, first + count)]


def _join(runs: Sequence[Run]) -> list[Run]:
    """Runs that follow one another in memory as one."""
    joined: list[Run] = []
    for first, count in runs:
        if joined and sum(joined[-1]) == first:
            joined[-1] = (joined[-1][0], joined[-1][1] + count)
        else:
            joined.append((first, count))
    return joined


def _as_rows(numbers: Sequence[int], device: torch.device) -> Rows:
    """A slice when the rows follow one another, for then they are not copied."""
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return slice(numbers[0], numbers[-1] + 1)
    return torch.tensor(numbers, device=device)


def _merge(
    out: torch.Tensor, lse: torch.Tensor, rows: Rows, part: torch.Tensor, part_lse: torch.Tensor
) -> None:
    """Add a piece to what its rows have so far."""
    before = lse[rows]
    total = torch.logaddexp(before, part_lse)
    out[rows] = out[rows] * (before - total).exp()[..., None] + part * (part_lse - total).exp()[..., None]
    lse[rows] = total
