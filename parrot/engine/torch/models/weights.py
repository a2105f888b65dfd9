"""Tensors and matrix products of a model's layers, read by name."""

from collections.abc import Callable, Mapping

import torch

from parrot.engine.torch.linear import Linear, make_linear
from parrot.engine.torch.loader import WeightFiles
from parrot.engine.torch.models.placement import Placement


class WeightReader:
    """Reads weights in one type to one device, and counts them. Names are told without `root`."""

    def __init__(self, files: WeightFiles, placement: Placement, *, root: str = "") -> None:
        self.num_parameters = 0
        self._files = files
        self._root = root
        self._dtype = placement.dtype
        self._device = placement.device
        self._kernels = placement.kernels

    def tensor(self, name: str, *size: int) -> torch.Tensor:
        """The tensor of that name and size; raises as `WeightFiles.copy_into`."""
        tensor = torch.empty(size, dtype=self._dtype, device=self._device)
        self._files.copy_into(tensor, self._root + name)
        self.num_parameters += tensor.numel()
        return tensor

    def linear(self, prefix: str, sizes: Mapping[str, int], num_inputs: int, *, bias: bool) -> Linear:
        """Projections of one input as one matrix, in the order of `sizes` (name → outputs)."""
        weight, offset = self._projections(prefix, sizes, num_inputs, bias=bias)
        return make_linear(weight, offset, self._kernels)

    def gated(
        self,
        prefix: str,
        sizes: Mapping[str, int],
        num_inputs: int,
        *,
        bias: bool,
        silu_mul: Callable[[torch.Tensor], torch.Tensor],
    ) -> Linear:
        """silu(gate) · up of two projections of one input, whose names are those of `sizes`, in this order.

        `silu_mul` takes them side by side; it is used where there is no kernel for all of it.
        """
        weight, offset = self._projections(prefix, sizes, num_inputs, bias=bias)
        if self._kernels is not None:
            native = self._kernels.make_linear(weight, offset, is_gated=True)
            if native is not None:
                return native
        linear = make_linear(weight, offset, self._kernels)

        def apply(rows: torch.Tensor) -> torch.Tensor:
            return silu_mul(linear(rows))

        return apply

    def _projections(
        self, prefix: str, sizes: Mapping[str, int], num_inputs: int, *, bias: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weights and biases side by side; each part is read into its place."""
        num_outputs = sum(sizes.values())
        weight = torch.empty(num_outputs, num_inputs, dtype=self._dtype, device=self._device)
        offset = torch.empty(num_outputs, dtype=self._dtype, device=self._device) if bias else None
        first = 0
        prefix = self._root + prefix
        for name, size in sizes.items():
            self._files.copy_into(weight[first : first + size], f"{prefix}{name}.weight")
            if offset is not None:
                self._files.copy_into(offset[first : first + size], f"{prefix}{name}.bias")
            first += size
        self.num_parameters += weight.numel() + (0 if offset is None else offset.numel())
        return weight, offset
