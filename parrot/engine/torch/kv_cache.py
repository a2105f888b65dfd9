"""KV memory: the tensors behind the blocks.

One block holds the keys and values of `block_tokens` tokens for all layers. A **slot** is one token's place:
slot = block · block_tokens + offset. The tensors are

    keys, values   [layers, kv_heads, slots, head_dim]

so that blocks with neighbouring numbers form one dense piece of memory for each head, and a context whose
blocks follow one another (the pool sees to it when it can) is read without copying.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from parrot.engine.torch.block_pool import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class KvShape:
    """The sizes that determine a cache's memory."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_tokens: int
    dtype: torch.dtype

    @property
    def block_bytes(self) -> int:
        """Memory of one block: keys and values of all layers."""
        per_token = 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize
        return per_token * self.block_tokens


class SlotCache(Protocol):
    """What a step's layout needs to know of a cache."""

    @property
    def scratch_slot(self) -> int:
        """Where what must be written nowhere goes."""
        ...

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, [layers, kv_heads, ...] each."""
        ...


class KvCache:
    """The tensors. One scratch slot after the last block takes what must be written nowhere."""

    def __init__(self, shape: KvShape, num_blocks: int, device: torch.device) -> None:
        self.shape = shape
        self.num_blocks = num_blocks
        self.scratch_slot = num_blocks * shape.block_tokens
        size = (shape.num_layers, shape.num_kv_heads, self.scratch_slot + 1, shape.head_dim)
        self.keys = torch.empty(size, dtype=shape.dtype, device=device)
        self.values = torch.empty(size, dtype=shape.dtype, device=device)
        # Padding reads the scratch slot with weight 0, which is 0 only if what it reads is finite.
        self.keys[:, :, self.scratch_slot] = 0
        self.values[:, :, self.scratch_slot] = 0

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values."""
        return self.keys, self.values

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put one layer's `keys` and `values` ([tokens, kv_heads, head_dim]) at `slots` ([tokens], int64)."""
        self.keys[layer].index_copy_(1, slots, keys.transpose(0, 1))
        self.values[layer].index_copy_(1, slots, values.transpose(0, 1))

    def read(self, layer: int, slots: Run) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of one run of slots, [kv_heads, tokens, head_dim] each; nothing is copied."""
        first, count = slots
        return self.keys[layer].narrow(1, first, count), self.values[layer].narrow(1, first, count)
