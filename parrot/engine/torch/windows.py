"""Sliding-window attention: what is left of a step's rows when they see their last tokens only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from parrot.engine.torch.attention import hidden_keys
from parrot.engine.torch.block_pool import Run
from parrot.engine.torch.kv_cache import KvCache
from parrot.engine.torch.partial_attention import StepTensors
from parrot.engine.torch.step_input import QueryRows, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class BandPartial:
    """All of a chunk's attention: each row over as many tokens up to itself as the window has."""

    rows: slice
    slots: torch.Tensor
    """What any of the rows sees, in order, the rows' own slots last."""
    is_hidden: torch.Tensor
    """[rows, slots]."""

    def compute(self, step: StepTensors, cache: KvCache) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and softmax in float32."""
        queries = step.queries[self.rows]
        num_rows, num_heads, head_dim = queries.shape
        keys = cache.keys[step.layer].index_select(1, self.slots)
        values = cache.values[step.layer].index_select(1, self.slots)
        grouped = queries.view(num_rows, keys.shape[0], -1, head_dim).permute(1, 2, 0, 3)
        scores = (grouped @ keys[:, None].transpose(2, 3)).float() * head_dim**-0.5
        scores = scores.masked_fill(self.is_hidden, float("-inf"))
        lse = scores.logsumexp(dim=-1)
        mixed = (scores - lse[..., None]).exp().to(values.dtype) @ values[:, None]
        return (
            mixed.permute(2, 0, 1, 3).reshape(num_rows, num_heads, head_dim),
            lse.permute(2, 0, 1).reshape(num_rows, num_heads),
        )


def apply_window(
    all_rows: Sequence[QueryRows], window: int, device: torch.device
) -> tuple[list[QueryRows], list[tuple[BandPartial, list[int]]]]:
    """Rows that see only what is in their window, and, for chunks whose rows see different parts of what is
    before them, a piece for each with its rows' numbers.
    """
    kept: list[QueryRows] = []
    bands: list[tuple[BandPartial, list[int]]] = []
    for rows in all_rows:
        num_seen = sum(span.num_tokens for span in rows.spans) + (rows.num_rows if rows.own else 0)
        if num_seen <= window:
            kept.append(rows)
        elif rows.num_rows == 1:
            kept.append(replace(rows, spans=_without_first(rows.spans, num_seen - window)))
        else:
            bands.append((_band(rows, num_seen, window, device), rows.numbers))
    return kept, bands


def _band(rows: QueryRows, num_seen: int, window: int, device: torch.device) -> BandPartial:
    spans = _without_first(rows.spans, max(0, num_seen - rows.num_rows - window + 1))
    runs = [*(run for span in spans for run in span.slots), *rows.own]
    slots = [slot for first, count in runs for slot in range(first, first + count)]
    return BandPartial(
        rows=rows.slice,
        slots=torch.tensor(slots, device=device),
        is_hidden=hidden_keys(rows.num_rows, len(slots), window, device=device),
    )


def _without_first(spans: Sequence[Span], num_tokens: int) -> tuple[Span, ...]:
    """What is left of `spans` without their first `num_tokens` tokens."""
    left: list[Span] = []
    for span in spans:
        cut = min(num_tokens, span.num_tokens)
        num_tokens -= cut
        if not cut:
            left.append(span)
        elif cut < span.num_tokens:
            slots = _runs_from(span.slots, cut)
            left.append(Span(span.context, span.num_tokens - cut, slots))
    return tuple(left)


def _runs_from(runs: Sequence[Run], cut: int) -> tuple[Run, ...]:
    left: list[Run] = []
    for first, count in runs:
        gone = min(cut, count)
        cut -= gone
        if gone < count:
            left.append((first + gone, count - gone))
    return tuple(left)
