"""What the machine gives at best: how fast it reads memory and multiplies matrices.

A step cannot be faster than its weights and KV are read, nor than its products are computed (the roofline
model, Williams et al. 2009).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from parrot.bench.engine.report import FloorDistance, Floors
from parrot.bench.spread import Spread, spread
from parrot.engine.native.kernels import NativeKernels
from parrot.engine.torch.config import TorchConfig
from parrot.engine.torch.linear import make_linear
from parrot.engine.torch.paths import choose_kernels
from parrot.engine.torch.startup import Parts
from parrot.ports.clock import Clock

_READ_BYTES = 1 << 30
"""Larger than caches, else it is not memory that is measured."""
_PRODUCT_SIZES = ((512, 2048, 2048), (2048, 2048, 2048))
"""Rows, inputs and outputs."""
_PRODUCTS_EACH = 3
"""Products timed together, so that starting them counts little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWork:
    """What one token costs, by the model's shape."""

    layer_parameters: int
    """In matrices that every token goes through."""
    head_parameters: int
    """In the matrix that makes logits."""
    weight_bytes: int
    """Read by a step that makes logits."""
    kv_bytes_per_token: int
    attention_flops: int
    """For one query token and one key token, over all layers."""

    @classmethod
    def of(cls, parts: Parts) -> "ModelWork":
        """The work of a loaded model. Norms and biases are counted as matrices; they are some per mille."""
        shape, kv = parts.shape, parts.kv_shape
        head = shape.vocab_size * shape.hidden_size
        layers = parts.model.num_parameters - head * (1 if shape.tied_embeddings else 2)
        return cls(
            layer_parameters=layers,
            head_parameters=head,
            weight_bytes=(layers + head) * kv.dtype.itemsize,
            kv_bytes_per_token=kv.block_bytes // kv.block_tokens,
            attention_flops=4 * shape.num_layers * shape.num_heads * shape.head_dim,
        )

    def decode_distance(
        self, floors: Floors, step_s: float, *, batch: int, context_tokens: int, is_shared: bool
    ) -> FloorDistance:
        """A step of `batch` requests over contexts of that length."""
        read_tokens = context_tokens * (1 if is_shared else batch)
        flops = 2 * batch * (self.layer_parameters + self.head_parameters)
        flops += self.attention_flops * batch * context_tokens
        return _distance(
            floors,
            step_s,
            num_bytes=self.weight_bytes + read_tokens * self.kv_bytes_per_token,
            num_flops=flops,
        )

    def prefill_distance(self, floors: Floors, seconds: float, *, num_tokens: int) -> FloorDistance:
        """One fill of an empty context; each token attends to half of them on average."""
        flops = 2 * num_tokens * self.layer_parameters + self.attention_flops * num_tokens * num_tokens // 2
        return _distance(floors, seconds, num_bytes=self.weight_bytes, num_flops=flops)


def measure_floors(
    work: ModelWork, config: TorchConfig, *, clock: Clock, device: str, dtype: str, repeats: int
) -> Floors:
    """Measure this machine, with torch's current number of threads. Takes some seconds and 1 GiB."""
    where, kind = torch.device(device), _DTYPES[dtype]
    kernels, _ = choose_kernels(config, dtype=kind, device=where)
    return Floors(
        read_bytes_per_s=_measure_reads(clock, where, repeats),
        matrix_flops_per_s=_measure_products(clock, where, kind, repeats, kernels),
        weight_bytes=work.weight_bytes,
        kv_bytes_per_token=work.kv_bytes_per_token,
    )


_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def _distance(floors: Floors, measured_s: float, *, num_bytes: int, num_flops: int) -> FloorDistance:
    memory_s = num_bytes / floors.read_bytes_per_s.max
    matrix_s = num_flops / floors.matrix_flops_per_s.max
    return FloorDistance(
        memory_floor_s=memory_s, matrix_floor_s=matrix_s, times_floor=measured_s / max(memory_s, matrix_s)
    )


def _measure_reads(clock: Clock, device: torch.device, repeats: int) -> Spread:
    memory = torch.ones(_READ_BYTES // 4, dtype=torch.float32, device=device)
    return spread(_READ_BYTES / s for s in _times(clock, repeats, memory.sum))


def _measure_products(
    clock: Clock,
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
    kernels: NativeKernels | None,
) -> Spread:
    """Torch's products and the engine's own, of several sizes; the fastest is what the machine can do."""
    found = []
    for rows, inputs, outputs in _PRODUCT_SIZES:
        left = torch.randn(rows, inputs, device=device).to(dtype)
        right = torch.randn(outputs, inputs, device=device).to(dtype)
        flops = 2 * rows * inputs * outputs * _PRODUCTS_EACH
        linears = [make_linear(right, None), make_linear(right, None, kernels)]
        products = [partial(torch.matmul, left, right.T), *(partial(linear, left) for linear in linears)]
        for product in products:
            times = _times(clock, repeats, product, _PRODUCTS_EACH)
            found.append(spread(flops / s for s in times))
    return max(found, key=lambda one: one.median)


@torch.inference_mode()
def _times(
    clock: Clock, repeats: int, work: Callable[[], torch.Tensor], num_times: int = 1
) -> Iterator[float]:
    """Seconds of each repeat, after one that is not counted."""
    for repeat in range(repeats + 1):
        _wait()
        began_s = clock.now_s()
        for _ in range(num_times):
            work()
        _wait()
        if repeat:
            yield clock.now_s() - began_s


def _wait() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
