"""Matrix products with fixed weights by the kernels."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from parrot.engine.native.kernels import NativeKernels

_PLAIN, _GATED = 0, 2
"""What becomes of a product: `LinearKind` of csrc/kernels.h."""
_TILE_OUTPUTS = 16


class NativeLinear:
    """[rows, inputs] → [rows, outputs]: a product with weights that are packed once, plus a bias.

    A gated one has gates and what they are for side by side among its weights, and gives silu(gate) · up.
    `as_int8`, each output's weights are kept as multiples of 1/127 of the largest among them, in a byte each.
    """

    def __init__(
        self,
        kernels: "NativeKernels",
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        is_gated: bool,
        as_int8: bool = False,
    ) -> None:
        assert weight.is_contiguous()
        assert weight.dtype == torch.bfloat16
        self.is_gated = is_gated
        self.num_outputs, self.num_inputs = weight.shape
        """Of the product; what a gated one gives is half as wide."""
        num_tiles = -(-self.num_outputs // _TILE_OUTPUTS)
        dtype = torch.int8 if as_int8 else torch.bfloat16
        self.packed = torch.empty(num_tiles * _TILE_OUTPUTS * self.num_inputs, dtype=dtype)
        self.scales = torch.empty(num_tiles * _TILE_OUTPUTS) if as_int8 else None
        """Of each output, in the order of the packed weights; None: they need none."""
        self.bias = bias
        if bias is not None and is_gated:
            self.bias = bias.view(2, -1, _TILE_OUTPUTS).transpose(0, 1).reshape(-1)
        assert self.bias is None or (self.bias.dtype == torch.bfloat16 and self.bias.is_contiguous())
        self._kernels = kernels
        self._kind = _GATED if is_gated else _PLAIN
        kernels.library.parrot_pack(
            kernels.handle,
            self._kind,
            self.num_inputs,
            self.num_outputs,
            weight.data_ptr(),
            self.packed.data_ptr(),
            None if self.scales is None else self.scales.data_ptr(),
        )

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """What `Weights` of csrc/stack.h points to."""
        return self.packed, self.scales, self.bias

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """The product of `rows`."""
        assert rows.dtype == torch.bfloat16
        assert rows.is_contiguous()
        assert rows.shape[1] == self.num_inputs
        width = self.num_outputs // 2 if self.is_gated else self.num_outputs
        out = torch.empty((rows.shape[0], width), dtype=torch.bfloat16)
        self._kernels.library.parrot_linear(
            self._kernels.handle,
            self._kind,
            rows.shape[0],
            self.num_inputs,
            self.num_outputs,
            rows.data_ptr(),
            self.packed.data_ptr(),
            None if self.scales is None else self.scales.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            out.data_ptr(),
        )
        return out
