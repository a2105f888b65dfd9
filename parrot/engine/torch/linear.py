"""A matrix product with fixed weights, in the form that is fastest for the device."""

from collections.abc import Callable

import torch
from torch.nn import functional

Linear = Callable[[torch.Tensor], torch.Tensor]
"""[rows, inputs] → [rows, outputs]."""


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """A product with `weight` ([outputs, inputs]) plus `bias`."""

    def apply(rows: torch.Tensor) -> torch.Tensor:
        return functional.linear(rows, weight, bias)

    return apply
