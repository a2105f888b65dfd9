"""All layers of a decoder of the Llama kind in one call.

What a layer does natively takes some tens of microseconds in a small step, and a call from Python two:
without one call for all of them, the interpreter takes a sixth of the step.
"""

import weakref
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from parrot.engine.native.kernels import Rotary
from parrot.engine.native.linear import NativeLinear
from parrot.engine.native.plan import AttentionPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class StackLayer:
    """One layer's weights, in bfloat16, and its part of the cache."""

    attention_norm: torch.Tensor
    qkv: NativeLinear
    head_norms: tuple[torch.Tensor, torch.Tensor] | None
    out: NativeLinear
    mlp_norm: torch.Tensor
    gate_up: NativeLinear
    """A gated one."""
    down: NativeLinear
    keys: torch.Tensor
    values: torch.Tensor

    def pointers(self) -> list[int]:
        """As `Layer` of csrc/stack.h has them."""
        norms = self.head_norms or (None, None)
        return [
            _pointer(tensor)
            for tensor in (
                self.attention_norm,
                *self.qkv.tensors,
                *norms,
                *self.out.tensors,
                self.mlp_norm,
                *self.gate_up.tensors,
                *self.down.tensors,
                self.keys,
                self.values,
            )
        ]


class NativeStack:
    """The layers over the steps of one attention plan."""

    def __init__(
        self, plan: AttentionPlan, rotary: Rotary, embeddings: torch.Tensor, layers: Sequence[StackLayer]
    ) -> None:
        first = layers[0]
        assert all(layer.gate_up.is_gated for layer in layers)
        assert plan.shape.dtype == embeddings.dtype == torch.bfloat16
        assert embeddings.is_contiguous()
        self._library = plan.kernels.library
        # What the pointers point to has to stay.
        self._kept = (plan, rotary, tuple(layers))
        self._embeddings = embeddings
        pointers = array("q", [pointer for layer in layers for pointer in layer.pointers()])
        self._stack = self._library.parrot_stack_new(
            plan.handle,
            embeddings.shape[1],
            first.down.num_inputs,
            rotary.norm_eps,
            rotary.cosines.data_ptr(),
            rotary.sines.data_ptr(),
            embeddings.data_ptr(),
            len(layers),
            pointers.buffer_info()[0],
        )
        if not self._stack:
            raise MemoryError("no memory for a model's layers")
        freed = weakref.finalize(self, self._library.parrot_stack_free, self._stack)
        # At the interpreter's end a thread may still be computing, and the memory goes anyway.
        freed.atexit = False

    def run(
        self, tokens: torch.Tensor, positions: torch.Tensor, times: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Take `tokens` at `positions` ([rows] each, int64) from their embeddings through all layers, over
        the step that the plan has begun; returns what the last layer leaves, [rows, size]. `times` ([2],
        float64): the seconds of matrix products and of attention are added to it.
        """
        assert positions.shape == tokens.shape
        assert positions.dtype == tokens.dtype == torch.int64
        hidden = torch.empty((tokens.shape[0], self._embeddings.shape[1]), dtype=torch.bfloat16)
        failed = self._library.parrot_stack_run(
            self._stack,
            tokens.shape[0],
            tokens.data_ptr(),
            positions.data_ptr(),
            hidden.data_ptr(),
            None if times is None else times.data_ptr(),
        )
        if failed:
            raise MemoryError("no memory for a step")
        return hidden


def _pointer(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
