"""Attention by the native kernels: a step as pieces of the cache, each read once for all its readers.

    shared context   [════════════════]   ← every request that sees any of it, as much as each may see
    private          [··][·····][·····◣]  ← what only one request reads, from all its contexts, and its own
                                            tokens of the step, which are in the cache by then

A context that goes on while others read it is one piece too: a reader's limit says how far it sees.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from parrot.engine.native.kernels import NativeKernels
from parrot.engine.native.plan import AttentionPlan, AttentionShape, Piece, Rows
from parrot.engine.torch.block_pool import Run
from parrot.engine.torch.contexts import Context
from parrot.engine.torch.native_cache import NativeKvCache
from parrot.engine.torch.step_input import QueryRows, StepInput

MIN_SHARED_TOKENS = 32
"""A context of fewer is cheaper to read for each request than to merge on its own."""


class NativeAttention:
    """Attention of any depth of sharing; with `shares` False every request reads all it sees by itself."""

    def __init__(
        self, kernels: NativeKernels, cache: NativeKvCache, *, num_heads: int, shares: bool = True
    ) -> None:
        shape = cache.shape
        self.layers = cache.layers
        self._shares = shares
        self.plan = AttentionPlan(
            kernels,
            AttentionShape(
                dtype=shape.dtype,
                num_heads=num_heads,
                num_kv_heads=shape.num_kv_heads,
                head_dim=shape.head_dim,
                num_slots=cache.num_slots,
            ),
        )

    def begin(self, step: StepInput) -> None:
        """Divide the step's attention into pieces, the same for all layers."""
        self.plan.begin(divide(step.rows, shares=self._shares), step.slots)

    def attend(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """One layer; shapes as in `models.decoder.Attend`."""
        return self.plan.attend(queries, keys, values, *self.layers[layer])


@dataclass(slots=True)
class _Node:
    """A context that several requests read."""

    runs: tuple[Run, ...] = ()
    num_tokens: int = 0
    readers: list[Rows] = field(default_factory=list)

    def add(self, runs: tuple[Run, ...], num_tokens: int, rows: Rows) -> None:
        if num_tokens > self.num_tokens:
            self.runs, self.num_tokens = runs, num_tokens
        self.readers.append(rows)


def divide(all_rows: Sequence[QueryRows], *, shares: bool) -> list[Piece]:
    """A step's pieces; every row reads at least one."""
    nodes: defaultdict[Context, _Node] = defaultdict(_Node)
    shared = _find_shared(all_rows) if shares else frozenset()
    pieces: list[Piece] = []
    for rows in all_rows:
        piece = _divide_rows(rows, shared, nodes)
        if piece is not None:
            pieces.append(piece)
    pieces += [Piece(runs=node.runs, readers=node.readers) for node in nodes.values()]
    return pieces


def _divide_rows(rows: QueryRows, shared: Collection[Context], nodes: dict[Context, _Node]) -> Piece | None:
    """Add the rows to the shared contexts that they read; returns what is left for themselves alone."""
    runs: list[Run] = []
    num_before = 0
    *above, last = rows.spans or (None,)
    goes_on = last is not None and rows.own and rows.num_own_before and last.context in shared
    for span in rows.spans[: len(above)] if goes_on else rows.spans:
        if span.context in shared:
            reader = (rows.first, rows.num_rows, span.num_tokens, 0)
            nodes[span.context].add(span.slots, span.num_tokens, reader)
        else:
            runs += span.slots
            num_before += span.num_tokens
    if goes_on:
        assert last is not None
        seen = _join((*last.slots, *rows.own))
        reader = (rows.first, rows.num_rows, last.num_tokens + 1, 1)
        nodes[last.context].add(seen, last.num_tokens + rows.num_rows, reader)
    elif rows.own:
        return Piece(runs=_join((*runs, *rows.own)), readers=[(rows.first, rows.num_rows, num_before + 1, 1)])
    if not runs:
        return None
    return Piece(runs=_join(runs), readers=[(rows.first, rows.num_rows, num_before, 0)])


def _find_shared(all_rows: Iterable[QueryRows]) -> frozenset[Context]:
    """The contexts worth reading once for several requests."""
    num_readers = Counter(
        span.context for rows in all_rows for span in rows.spans if span.num_tokens >= MIN_SHARED_TOKENS
    )
    return frozenset(context for context, count in num_readers.items() if count > 1)


def _join(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Runs that follow one another in memory as one."""
    joined: list[Run] = []
    for first, count in runs:
        if joined and sum(joined[-1]) == first:
            joined[-1] = (joined[-1][0], joined[-1][1] + count)
        else:
            joined.append((first, count))
    return tuple(joined)
