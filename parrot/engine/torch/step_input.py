"""A planned step in the form that the model and the attention read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from parrot.engine.torch.batcher import Chunk
from parrot.engine.torch.block_pool import Run
from parrot.engine.torch.contexts import Context, ContextTree
from parrot.engine.torch.kv_cache import SlotCache


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the cache that queries see whole: `num_tokens` tokens of one context; the first ones unless
    a window hides them.

    Equal spans of different queries are the same memory, which is what shared attention looks for.
    """

    context: Context
    num_tokens: int
    slots: tuple[Run, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRows:
    """Consecutive tokens of one context in a step.

    cache   [ span ][ span ][ span ]          seen whole by every row
    step                            [ chunk ] row i sees the chunk's rows 0 … i
    """

    first: int
    """The first one's place among the step's tokens."""
    num_rows: int
    spans: tuple[Span, ...]
    num_own_before: int = 0
    """Tokens of the rows' own context that were computed before; they are the last span, unless 0."""
    own: tuple[Run, ...]
    """Where the rows' keys and values go. Empty for a probe: its own are in the spans already."""

    @property
    def slice(self) -> slice:
        """The rows' places."""
        return slice(self.first, self.first + self.num_rows)

    @property
    def numbers(self) -> list[int]:
        """The rows' places, one by one."""
        return list(range(self.first, self.first + self.num_rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInput:
    """One step's tensors; everything is in the order of the step's tokens."""

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    """Where each token's key and value go."""
    rows: tuple[QueryRows, ...]
    logit_rows: torch.Tensor
    """The tokens whose logits are wanted, in the order of the chunks that want them."""


def build_step_input(
    chunks: Sequence[Chunk], tree: ContextTree, cache: SlotCache, device: torch.device
) -> StepInput:
    """Lay out `chunks` one after the other."""
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    rows: list[QueryRows] = []
    logit_rows: list[int] = []
    spans: dict[tuple[Context, int], Span] = {}

    def span(context: Context, num_tokens: int) -> Span:
        key = (context, num_tokens)
        if key not in spans:
            spans[key] = Span(context, num_tokens, tree.slots(context, num_tokens))
        return spans[key]

    for chunk in chunks:
        context = chunk.context
        first = len(token_ids)
        token_ids += context.tokens[chunk.first : chunk.end]
        start = context.start + chunk.first
        positions += range(start, start + chunk.num_tokens)
        seen = [span(node, count) for node, count in context.lineage()]
        own: tuple[Run, ...] = ()
        if chunk.probe:
            slots.append(cache.scratch_slot)
            seen.append(span(context, chunk.end))
        else:
            own = _slots_between(tree, context, chunk.first, chunk.end)
            slots += [slot for run, count in own for slot in range(run, run + count)]
            if chunk.first:
                seen.append(span(context, chunk.first))
        rows.append(
            QueryRows(
                first=first,
                num_rows=chunk.num_tokens,
                spans=tuple(seen),
                num_own_before=0 if chunk.probe else chunk.first,
                own=own,
            )
        )
        if chunk.wants_logits:
            logit_rows.append(len(token_ids) - 1)
    return StepInput(
        token_ids=torch.tensor(token_ids, device=device),
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor(slots, device=device),
        rows=tuple(rows),
        logit_rows=torch.tensor(logit_rows, dtype=torch.int64, device=device),
    )


def _slots_between(tree: ContextTree, context: Context, first: int, end: int) -> tuple[Run, ...]:
    """The slots of the context's own tokens `first` … `end` - 1."""
    runs: list[Run] = []
    at = 0
    for run, count in tree.slots(context, end):
        low = max(first - at, 0)
        if low < count:
            runs.append((run + low, count - low))
        at += count
    return tuple(runs)
