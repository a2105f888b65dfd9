"""KV memory in the layout that the native kernels read (`csrc/kernels.h`)."""

import torch

from parrot.engine.native.plan import TILE_SLOTS
from parrot.engine.torch.kv_cache import KvShape


class NativeKvCache:
    """The tensors. Slots are those of `kv_cache`, in tiles of `TILE_SLOTS`; blocks of a multiple of that take
    exactly their bytes.
    """

    scratch_slot = -1
    """What goes here is written nowhere."""

    def __init__(self, shape: KvShape, num_blocks: int) -> None:
        self.shape = shape
        self.num_slots = -(-num_blocks * shape.block_tokens // TILE_SLOTS) * TILE_SLOTS
        size = (shape.num_layers, shape.num_kv_heads, self.num_slots * shape.head_dim)
        keys, values = torch.empty(size, dtype=shape.dtype), torch.empty(size, dtype=shape.dtype)
        self.tensors = (keys, values)
        """All layers' keys and values, [layers, kv_heads, num_slots · head_dim] each."""
        self.layers = list(zip(keys.unbind(), values.unbind(), strict=True))
        """Each layer's keys and values, [kv_heads, num_slots · head_dim]."""
