"""What one step of an engine costs: the larger of its computing and its reading, and what its program adds.

    step = max(flops / flops_per_s, bytes / bytes_per_s) + overhead + request · requests

    flops  = flops_per_token · (prompt tokens + decoded tokens) + flops_per_pair · (query, key) pairs
    bytes  = weights + kv_bytes · tokens of KV read

A decoding request reads the KV of its whole context in every step. What several requests share is read once,
by shared-prefix attention, or once for each of them, of which the device's cache serves a part
(`cached_share`). `docs/explanation/simulator.md` derives the presets.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

KvReads = Literal["once", "each"]
"""How often a step reads KV that several of its requests share."""

_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What of a model decides its cost."""

    name: str
    num_parameters: float
    num_layers: int
    query_width: int
    """Query heads times their width."""
    kv_width: int
    """KV heads times their width."""
    bytes_per_value: int = 2
    context_tokens: int = 16_384
    """The window. Position encodings of real models end sooner; costs do not depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What of a device decides its cost; data-sheet figures."""

    name: str
    bytes_per_s: float
    flops_per_s: float
    """Dense, 16 bit."""
    memory_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """The constants of the formula above."""

    weight_bytes: float
    kv_bytes: float
    """Of one token, all layers."""
    flops_per_token: float
    flops_per_pair: float
    """Scores and values of one query against one key, all layers."""
    bytes_per_s: float
    flops_per_s: float
    overhead_s: float
    """What every step takes beyond its kernels."""
    request_s: float = 0.0
    """What each request that decodes adds to that."""
    kv_reads: KvReads = "once"
    cached_share: float = 0.65
    """With `each`: the part of repeated reads that the device's cache serves."""

    def __post_init__(self) -> None:
        for name in (
            "weight_bytes",
            "kv_bytes",
            "flops_per_token",
            "flops_per_pair",
            "overhead_s",
            "request_s",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is not negative")
        if not (0 < self.bytes_per_s < math.inf and 0 < self.flops_per_s < math.inf):
            raise ValueError("rates are positive")
        if not 0 <= self.cached_share <= 1:
            raise ValueError("cached_share lies between 0 and 1")

    def kv_tokens_read(self, *, num_context_tokens: float, num_distinct_tokens: float) -> float:
        """Tokens of KV that decoding requests read in a step, given the sum of their lengths, and that sum
        with every shared token counted once.
        """
        if self.kv_reads == "once":
            return num_distinct_tokens
        repeated = num_context_tokens - num_distinct_tokens
        return num_distinct_tokens + repeated * (1 - self.cached_share)

    def step_s(
        self, *, num_tokens: float, num_pairs: float, kv_tokens: float, num_decoding: int = 0
    ) -> float:
        """Seconds of one step that computes `num_tokens` tokens with `num_pairs` query-key pairs, reads the
        KV of `kv_tokens` tokens, and decodes for `num_decoding` requests.
        """
        flops = self.flops_per_token * num_tokens + self.flops_per_pair * num_pairs
        read = self.weight_bytes + self.kv_bytes * kv_tokens
        program_s = self.overhead_s + self.request_s * num_decoding
        return max(flops / self.flops_per_s, read / self.bytes_per_s) + program_s

    def decode(self, *, batch: int, num_context_tokens: int, num_distinct_tokens: int) -> "DecodeSteps":
        """Many steps of one batch that does nothing but decode: every context grows by a token a step."""
        kv_tokens = self.kv_tokens_read(
            num_context_tokens=num_context_tokens, num_distinct_tokens=num_distinct_tokens
        )
        flops = self.flops_per_token * batch + self.flops_per_pair * num_context_tokens
        read = self.weight_bytes + self.kv_bytes * kv_tokens
        return DecodeSteps(
            compute_s=flops / self.flops_per_s,
            compute_growth_s=self.flops_per_pair * batch / self.flops_per_s,
            read_s=read / self.bytes_per_s,
            read_growth_s=self.kv_bytes * batch / self.bytes_per_s,
            overhead_s=self.overhead_s + self.request_s * batch,
        )


class DecodeSteps(NamedTuple):
    """Step `i` (0, 1, 2, …) takes `max(compute + i · compute growth, read + i · read growth) + overhead`
    seconds; sums of that without adding up steps.
    """

    compute_s: float
    compute_growth_s: float
    read_s: float
    read_growth_s: float
    overhead_s: float

    def total_s(self, num_steps: int) -> float:
        """Seconds of the first `num_steps` steps."""
        lead = self.compute_s - self.read_s
        growth = self.compute_growth_s - self.read_growth_s
        turn = num_steps
        if lead * (lead + growth * (num_steps - 1)) < 0:
            turn = min(num_steps, math.ceil(-lead / growth))
        computes_first = lead > 0 or (lead == 0 and growth > 0)
        compute = (0, turn) if computes_first else (turn, num_steps)
        read = (turn, num_steps) if computes_first else (0, turn)
        return (
            _series(self.compute_s, self.compute_growth_s, *compute)
            + _series(self.read_s, self.read_growth_s, *read)
            + num_steps * self.overhead_s
        )

    def num_done(self, elapsed_s: float, most: int) -> int:
        """How many of the first `most` steps have ended after `elapsed_s` seconds."""
        until_s = elapsed_s + _TINY
        whole_s = self.total_s(most)
        if whole_s <= until_s:
            return most
        # Steps grow slowly, so as many as there would be were all alike is close.
        done = int(most * until_s / whole_s)
        while done and self.total_s(done) > until_s:
            done -= 1
        while done + 1 < most and self.total_s(done + 1) <= until_s:
            done += 1
        return done


def _series(first: float, growth: float, start: int, end: int) -> float:
    """Sum of `first + i · growth` over `start <= i < end`."""
    return (end - start) * (first + growth * (start + end - 1) / 2)


BANDWIDTH_SHARE = 0.8
"""Part of a data sheet's memory bandwidth that kernels reach."""
FLOPS_SHARE = 0.55
"""Part of a data sheet's FLOPs that matrix products of prefill reach."""

VICUNA_13B = ModelShape(name="13b", num_parameters=13.0e9, num_layers=40, query_width=5120, kv_width=5120)
VICUNA_7B = ModelShape(name="7b", num_parameters=6.74e9, num_layers=32, query_width=4096, kv_width=4096)
LLAMA_8B = ModelShape(name="8b", num_parameters=8.03e9, num_layers=32, query_width=4096, kv_width=1024)

A100 = Device(name="a100-80g", bytes_per_s=2.039e12, flops_per_s=312e12, memory_bytes=80e9)
A6000 = Device(name="a6000-48g", bytes_per_s=0.768e12, flops_per_s=154.8e12, memory_bytes=48e9)
H100 = Device(name="h100-80g", bytes_per_s=3.35e12, flops_per_s=989e12, memory_bytes=80e9)


def derive(device: Device, shape: ModelShape, *, overhead_s: float, request_s: float) -> CostModel:
    """The constants of a model on a device."""
    return CostModel(
        weight_bytes=shape.num_parameters * shape.bytes_per_value,
        kv_bytes=2.0 * shape.num_layers * shape.kv_width * shape.bytes_per_value,
        flops_per_token=2.0 * shape.num_parameters,
        flops_per_pair=4.0 * shape.num_layers * shape.query_width,
        bytes_per_s=device.bytes_per_s * BANDWIDTH_SHARE,
        flops_per_s=device.flops_per_s * FLOPS_SHARE,
        overhead_s=overhead_s,
        request_s=request_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A model on a device, with a program of its time around it."""

    device: Device
    shape: ModelShape
    overhead_s: float
    """What a step takes beyond its kernels."""
    request_s: float
    """What each decoding request adds to that."""

    @property
    def name(self) -> str:
        """Device and model."""
        return f"{self.device.name}-{self.shape.name}"

    def cost(self) -> CostModel:
        """Its constants."""
        return derive(self.device, self.shape, overhead_s=self.overhead_s, request_s=self.request_s)

    def kv_tokens(self, *, memory_share: float = 0.9) -> int:
        """Tokens whose KV fits beside the weights into a part of the memory."""
        cost = self.cost()
        return int((self.device.memory_bytes * memory_share - cost.weight_bytes) / cost.kv_bytes)


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(device=A100, shape=VICUNA_13B, overhead_s=0.010, request_s=0.001),
        Preset(device=A100, shape=VICUNA_7B, overhead_s=0.010, request_s=0.001),
        Preset(device=A6000, shape=VICUNA_7B, overhead_s=0.010, request_s=0.0012),
        Preset(device=H100, shape=LLAMA_8B, overhead_s=0.002, request_s=0.00002),
    )
}
"""Models on devices, by name."""
