"""Attention of some queries over some keys, with the log-sum-exps by which results can be merged.

For one query, softmax attention over keys A ∪ B is the mean of the results over A and over B, weighted by
exp(lse_A) and exp(lse_B), where lse is the logarithm of the sum of the exponentiated scores (FlashAttention,
Dao et al. 2022; for shared prefixes, Hydragen, Juravsky et al. 2024).
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from parrot.engine.torch.block_pool import Run
from parrot.engine.torch.kv_cache import KvCache

Rows = slice | torch.Tensor
"""Some of a step's tokens: a slice, or their numbers in ascending order."""

_NOT_A_KEY = -1e30
"""Score of a padding key: its weight is 0, and a row of nothing else merges with weight 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTensors:
    """One layer's queries [tokens, heads, head_dim], and keys and values [tokens, kv_heads, head_dim]."""

    layer: int
    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


class Partial(Protocol):
    """One piece of a step's attention. The same for all layers."""

    @property
    def rows(self) -> Rows:
        """The tokens it is for."""
        ...

    def compute(self, step: StepTensors, cache: KvCache) -> tuple[torch.Tensor, torch.Tensor]:
        """Results [rows, heads, head_dim] and their log-sum-exps [rows, heads] in float32."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DensePartial:
    """All rows over one run of slots, read once and in place."""

    rows: Rows
    run: Run

    def compute(self, step: StepTensors, cache: KvCache) -> tuple[torch.Tensor, torch.Tensor]:
        """One call for all rows: the queries of a KV head lie one below the other."""
        keys, values = cache.read(step.layer, self.run)
        return _dense(step.queries[self.rows], keys, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatheredPartial:
    """One request's rows over several runs of slots, copied together."""

    rows: Rows
    slots: torch.Tensor

    def compute(self, step: StepTensors, cache: KvCache) -> tuple[torch.Tensor, torch.Tensor]:
        """As for one run."""
        keys = cache.keys[step.layer].index_select(1, self.slots)
        values = cache.values[step.layer].index_select(1, self.slots)
        return _dense(step.queries[self.rows], keys, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalPartial:
    """A chunk's rows over the chunk itself: row i sees rows 0 … i."""

    rows: slice

    def compute(self, step: StepTensors, cache: KvCache) -> tuple[torch.Tensor, torch.Tensor]:
        """KV heads stand for the batch; the query heads of one share its keys without a copy."""
        del cache
        queries, keys, values = step.queries[self.rows], step.keys[self.rows], step.values[self.rows]
        num_rows, num_heads, head_dim = queries.shape
        num_kv_heads = keys.shape[1]
        size = (num_kv_heads, num_heads // num_kv_heads, num_rows, head_dim)
        out, lse = _attend(
            queries.view(num_rows, *size[:2], head_dim).permute(1, 2, 0, 3),
            keys.transpose(0, 1)[:, None].expand(size),
            values.transpose(0, 1)[:, None].expand(size),
            causal=True,
        )
        return (
            out.permute(2, 0, 1, 3).reshape(num_rows, num_heads, head_dim),
            lse.permute(2, 0, 1).reshape(num_rows, num_heads),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedPartial:
    """Many single rows, each over a few slots of its own, in one batched product."""

    rows: Rows
    slots: torch.Tensor
    """[rows, longest], filled up with the scratch slot."""
    is_padding: torch.Tensor
    """[rows, 1, 1, longest]."""

    def compute(self, step: StepTensors, cache: KvCache) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and softmax in float32."""
        queries = step.queries[self.rows]
        num_rows, num_heads, head_dim = queries.shape
        num_kv_heads = step.keys.shape[1]
        flat = self.slots.reshape(-1)
        size = (num_kv_heads, num_rows, -1, head_dim)
        keys = cache.keys[step.layer].index_select(1, flat).view(size).transpose(0, 1)
        values = cache.values[step.layer].index_select(1, flat).view(size).transpose(0, 1)
        grouped = queries.view(num_rows, num_kv_heads, -1, head_dim)
        scores = (grouped @ keys.transpose(2, 3)).float() * head_dim**-0.5
        scores = scores.masked_fill(self.is_padding, _NOT_A_KEY)
        lse = scores.logsumexp(dim=-1)
        weights = (scores - lse[..., None]).exp().to(queries.dtype)
        return (weights @ values).view(num_rows, num_heads, head_dim), lse.view(num_rows, num_heads)


def _dense(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every one of [rows, heads, head_dim] over every one of [kv_heads, tokens, head_dim]."""
    num_rows, num_heads, head_dim = queries.shape
    num_kv_heads = keys.shape[0]
    grouped = queries.view(num_rows, num_kv_heads, -1, head_dim).transpose(0, 1)
    stacked = grouped.reshape(1, num_kv_heads, -1, head_dim)
    out, lse = _attend(stacked, keys[None], values[None], causal=False)
    size = (num_kv_heads, num_rows, num_heads // num_kv_heads)
    return (
        out.view(*size, head_dim).transpose(0, 1).reshape(num_rows, num_heads, head_dim),
        lse.reshape(size).transpose(0, 1).reshape(num_rows, num_heads),
    )


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """[batch, heads, rows, head_dim] over [batch, heads, tokens, head_dim]: the result, and the log-sum-exp
    [batch, heads, rows].
    """
    scale = queries.shape[-1] ** -0.5
    if queries.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, keys, values, 0.0, causal, scale=scale
        )
        return out, lse
    scores = (queries @ keys.transpose(-1, -2)).float() * scale
    if causal:
        num_rows = queries.shape[-2]
        later = torch.ones(num_rows, num_rows, dtype=torch.bool, device=scores.device).triu(1)
        scores.masked_fill_(later, float("-inf"))
    lse = scores.logsumexp(dim=-1)
    return (scores - lse[..., None]).exp().to(values.dtype) @ values, lse
