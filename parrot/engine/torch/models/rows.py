"""What a decoder of the Llama kind computes row by row between its matrix products, in torch or natively.

Root-mean-square norms are those of Zhang and Sennrich (2019), in float32 whatever the model's type.
"""

from typing import Protocol

import torch
from torch.nn import functional

from parrot.engine.native.kernels import NativeKernels, Rotary
from parrot.engine.torch.models.llama_shape import LlamaShape
from parrot.engine.torch.models.rope import rope_tables, rotate

HeadNorms = tuple[torch.Tensor, torch.Tensor]
"""Weights ([head_dim] each) of the norms over each query head and each key head."""
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries [tokens, heads, head_dim], keys and values [tokens, kv_heads, head_dim]."""


class RowOperations(Protocol):
    """The operations on one step after the other."""

    def begin(self, positions: torch.Tensor) -> None:
        """A step with tokens at `positions` ([tokens]) begins."""
        ...

    def add_norm(
        self, hidden: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`hidden + added` ([rows, size]; `hidden` may be overwritten), and its norm times `weight`."""
        ...

    def heads(self, projected: torch.Tensor, norms: HeadNorms | None) -> Heads:
        """Take a projection ([tokens, queries, keys and values side by side], may be overwritten) apart, norm
        its queries and keys where there are `norms`, and rotate them.
        """
        ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) · up of [rows, gate and up side by side]."""
        ...


class TorchRows:
    """In plain torch, on any device: the definition."""

    def __init__(
        self, shape: LlamaShape, *, dtype: torch.dtype, device: torch.device, context_tokens: int
    ) -> None:
        self._shape = shape
        self._tables = rope_tables(
            shape.rope, head_dim=shape.head_dim, num_positions=context_tokens, dtype=dtype, device=device
        )
        self._cosines, self._sines = self._tables

    def begin(self, positions: torch.Tensor) -> None:
        """See `RowOperations`."""
        self._cosines, self._sines = (table[positions][:, None] for table in self._tables)

    def add_norm(
        self, hidden: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `RowOperations`."""
        hidden = hidden if added is None else hidden + added
        return hidden, self._norm(hidden, weight)

    def heads(self, projected: torch.Tensor, norms: HeadNorms | None) -> Heads:
        """See `RowOperations`."""
        shape = self._shape
        all_heads = projected.view(projected.shape[0], -1, shape.head_dim)
        turned = all_heads[:, : shape.num_heads + shape.num_kv_heads]
        if norms is not None:
            queries = self._norm(turned[:, : shape.num_heads], norms[0])
            turned = torch.cat((queries, self._norm(turned[:, shape.num_heads :], norms[1])), dim=1)
        turned = rotate(turned, self._cosines, self._sines)
        values = all_heads[:, shape.num_heads + shape.num_kv_heads :]
        return turned[:, : shape.num_heads], turned[:, shape.num_heads :], values

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `RowOperations`."""
        gate, up = gate_up.chunk(2, dim=1)
        return functional.silu(gate) * up

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = hidden.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._shape.norm_eps)
        return weight * wide.to(hidden.dtype)


class NativeRows:
    """By the native kernels, one call for each."""

    def __init__(self, kernels: NativeKernels, shape: LlamaShape, *, context_tokens: int) -> None:
        self._kernels = kernels
        self._shape = shape
        cosines, sines = rope_tables(
            shape.rope,
            head_dim=shape.head_dim,
            num_positions=context_tokens,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        self.rotary = Rotary(
            num_query_heads=shape.num_heads,
            num_key_heads=shape.num_kv_heads,
            cosines=cosines,
            sines=sines,
            norm_eps=shape.norm_eps,
        )
        self._sections = [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads]
        self._positions = torch.empty(0, dtype=torch.int64)

    def begin(self, positions: torch.Tensor) -> None:
        """See `RowOperations`."""
        self._positions = positions

    def add_norm(
        self, hidden: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `RowOperations`."""
        return hidden, self._kernels.add_norm(hidden, added, weight, self._shape.norm_eps)

    def heads(self, projected: torch.Tensor, norms: HeadNorms | None) -> Heads:
        """See `RowOperations`."""
        self._kernels.rotate(projected, self.rotary, self._positions, norms)
        all_heads = projected.view(projected.shape[0], -1, self._shape.head_dim)
        queries, keys, values = all_heads.split_with_sizes(self._sections, dim=1)
        return queries, keys, values

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `RowOperations`."""
        return self._kernels.silu_mul(gate_up)
