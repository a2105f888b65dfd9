"""Where a model is put."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from parrot.engine.native.kernels import NativeKernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how weights are loaded."""

    dtype: torch.dtype
    device: torch.device
    context_tokens: int
    """No context is longer than this."""
    on_progress: Callable[[float], None]
    """Told how much is loaded, 0 to 1."""
    kernels: NativeKernels | None = None
    """What computes on a CPU where torch need not; None: torch does it all."""
