"""Attention over the tree of contexts, in plain torch.

Every way of computing it gives the same numbers within rounding; `ReferenceAttention` is the definition.
"""

import math
from typing import Protocol

import torch

from parrot.engine.torch.kv_cache import KvCache
from parrot.engine.torch.models.decoder import AttentionTraits
from parrot.engine.torch.step_input import QueryRows, StepInput


class Attention(Protocol):
    """Writes the keys and values of a step's tokens and lets each token attend to what it may see."""

    def begin(self, step: StepInput) -> None:
        """Prepare what is the same for all layers of a step."""
        ...

    def attend(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """One layer; shapes as in `models.decoder.Attend`."""
        ...


class ReferenceAttention:
    """Softmax attention in float32, one request after the other, with all its keys gathered."""

    def __init__(self, cache: KvCache, traits: AttentionTraits) -> None:
        self._cache = cache
        self._traits = traits
        self._step: StepInput | None = None

    def begin(self, step: StepInput) -> None:
        """Keep the step's layout."""
        self._step = step

    def attend(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """One layer; shapes as in `models.decoder.Attend`."""
        step = self._step
        assert step is not None
        self._cache.write(layer, step.slots, keys, values)
        out = torch.empty_like(queries)
        for rows in step.rows:
            part = slice(rows.first, rows.first + rows.num_rows)
            out[part] = self._attend_rows(layer, rows, queries[part], keys[part], values[part])
        return out

    def _attend_rows(
        self,
        layer: int,
        rows: QueryRows,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        num_rows, num_heads, head_dim = queries.shape
        num_kv_heads = keys.shape[1]
        seen = [self._cache.read(layer, run) for span in rows.spans for run in span.slots]
        if rows.own:
            seen.append((keys.transpose(0, 1), values.transpose(0, 1)))
        all_keys = torch.cat([k for k, _ in seen], dim=1).float()
        all_values = torch.cat([v for _, v in seen], dim=1).float()
        grouped = queries.float().view(num_rows, num_kv_heads, num_heads // num_kv_heads, head_dim)
        scores = torch.einsum("rkgd,knd->kgrn", grouped, all_keys) / math.sqrt(head_dim)
        traits = self._traits
        if traits.softcap is not None:
            scores = traits.softcap * (scores / traits.softcap).tanh()
        window = traits.windows[layer] if traits.windows else None
        is_hidden = hidden_keys(num_rows, all_keys.shape[1], window, device=scores.device)
        weights = scores.masked_fill(is_hidden, float("-inf"))
        if traits.sinks:
            sinks = traits.sinks[layer].float().view(num_kv_heads, -1, 1, 1)
            weights = torch.cat((weights, sinks.expand(*weights.shape[:-1], 1)), dim=-1)
        weights = weights.softmax(dim=-1)[..., : all_keys.shape[1]]
        mixed = torch.einsum("kgrn,knd->rkgd", weights, all_values)
        return mixed.reshape(num_rows, num_heads, head_dim).to(queries.dtype)


def hidden_keys(num_rows: int, num_keys: int, window: int | None, *, device: torch.device) -> torch.Tensor:
    """Which of `num_keys` consecutive tokens each of the last `num_rows` of them does not see, [rows, keys]:
    those after it, and those that are not in its window.
    """
    keys = torch.arange(num_keys, device=device)
    rows = keys[num_keys - num_rows :, None]
    is_hidden = keys > rows
    return is_hidden if window is None else is_hidden | (keys <= rows - window)
