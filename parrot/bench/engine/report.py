"""What `parrot bench engine` found. Field names are the keys of its JSON (docs/reference/bench.md)."""

from dataclasses import dataclass
from typing import Literal

from parrot.bench.origin import Commit, Machine
from parrot.bench.spread import Spread
from parrot.engine.torch.config import AttentionKind

Prefix = Literal["shared", "private"]
"""Whether the requests of a batch fork from one context, or each from its own."""

SCHEMA = "parrot.bench.engine/1"
"""Changes when a key changes its meaning or goes; new keys may come without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedEngine:
    """One engine that was measured."""

    attention: AttentionKind
    description: str
    start_s: float
    device: str
    dtype: str
    num_parameters: int
    num_blocks: int
    block_tokens: int
    block_bytes: int
    peak_rss_bytes: int
    """Of the process, up to when the engine had been measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """What the machine gives at best, measured in the same run."""

    read_bytes_per_s: Spread
    """A long sum over memory, on all of the engine's threads."""
    matrix_flops_per_s: Spread
    """The best matrix product found, in the model's type."""
    weight_bytes: int
    """Weights that one decode step reads."""
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorDistance:
    """How far a step is from what memory and arithmetic allow."""

    memory_floor_s: float
    """Bytes of weights and KV that must be read, by the measured bandwidth."""
    matrix_floor_s: float
    """Multiplications and additions that must be made, by the measured rate."""
    times_floor: float
    """The measured median over the larger of both; 1 is as fast as can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillResult:
    """Filling one empty context with fresh tokens."""

    num_tokens: int
    tokens_per_s: Spread
    floor: FloorDistance | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeResult:
    """A batch that decodes in step."""

    attention: AttentionKind
    batch: int
    context_tokens: int
    prefix: Prefix
    num_tokens: int
    """Tokens of each request in one measurement."""
    tokens_per_s: Spread
    """Of the whole batch, from when each request had its first token to when one had its last."""
    step_s: Spread
    floor: FloorDistance | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitResult:
    """Where a step's time goes; the parts add up to `step_s`, but for their medians."""

    phase: Literal["prefill", "decode"]
    batch: int
    context_tokens: int
    step_s: Spread
    matrix_s: Spread
    attention_s: Spread
    sampling_s: Spread
    model_rest_s: Spread
    """Norms, rotations, activations and the like, inside the model, where no kernel does them within a
    product or within attention.
    """
    outside_s: Spread
    """Planning, tokens to text, delivery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkBlocks:
    """KV blocks of forks that share a prefix."""

    num_forks: int
    prefix_tokens: int
    suffix_tokens: int
    num_blocks: int
    expected_blocks: int
    """One prefix and `num_forks` suffixes, each in whole blocks."""
    unshared_blocks: int
    """What as many separate contexts would hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryResult:
    """Memory, of the process and of KV."""

    peak_rss_bytes: int
    """The most this process had resident, over all engines of the run, before the floors were measured."""
    peak_device_bytes: int | None
    """The most that was allocated on a GPU."""
    forks: ForkBlocks | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Result:
    """The same engine with `weights = "int8"`, whose prefixes are shared and whose floors are not told."""

    prefill: list[PrefillResult]
    decode: list[DecodeResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A case that was not measured."""

    case: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """One run of the benchmark."""

    schema: str
    started_at: str
    """UTC, ISO 8601."""
    duration_s: float
    model: str
    model_hash: str
    machine: Machine
    load_average: float
    """Processes that wanted a CPU in the minute before; well above 0, others disturbed the figures."""
    versions: dict[str, str]
    source: Commit | None
    settings: dict[str, object]
    engines: list[StartedEngine]
    floors: Floors | None
    prefill: list[PrefillResult]
    decode: list[DecodeResult]
    split: list[SplitResult]
    memory: MemoryResult | None
    int8: Int8Result | None
    """None where the section was not asked for, or is not possible; `skipped` then says why."""
    skipped: list[Skipped]
