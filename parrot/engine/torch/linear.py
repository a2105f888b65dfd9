"""A matrix product with fixed weights, in the form that is fastest for the device."""

from collections.abc import Callable

import torch
from torch.nn import functional

from parrot.engine.native.kernels import NativeKernels

Linear = Callable[[torch.Tensor], torch.Tensor]
"""[rows, inputs] → [rows, outputs]."""

_PACKED_FOR_ROWS = 256
"""Rows for which oneDNN lays packed weights out; fewer rows do not lose by it, more gain."""


def make_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, kernels: NativeKernels | None = None
) -> Linear:
    """A product with `weight` ([outputs, inputs]) plus `bias`.

    On a CPU that multiplies bfloat16 matrices, the weights are packed once, for `kernels` where these are
    faster, else for oneDNN; `weight` is then not kept. float32 gains nothing by it.
    """
    native = None if kernels is None else kernels.make_linear(weight, bias)
    if native is not None:
        return native
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and _packs_bfloat16():
        return _packed(weight, bias)

    def apply(rows: torch.Tensor) -> torch.Tensor:
        return functional.linear(rows, weight, bias)

    return apply


def _packs_bfloat16() -> bool:
    has_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return has_onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR_ROWS)
    multiply = torch.ops.mkldnn._linear_pointwise

    def apply(rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = multiply(rows, packed, bias, "none", [], "")
        return product

    return apply
