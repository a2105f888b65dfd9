"""Costs of a real engine: fitted to what `parrot bench engine` measured.

    decode   step = overhead + bytes / bytes_per_s      least squares over the measured batches and lengths
    prefill  flops_per_s = flops_per_token · tokens/s   of the longest prompt

Bytes are the weights and every distinct token's KV. FLOPs of attention are not told apart from those of
matrix products, so query-key pairs cost nothing here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from parrot.errors import ConfigError
from parrot.sim.cost import CostModel, KvReads

_SCHEMA = "parrot.bench.engine/1"
_SUFFIX_TOKENS = 8
"""What each measured request has of its own when it begins to decode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredEngine:
    """A real engine's costs and memory."""

    name: str
    cost: CostModel
    kv_tokens: int
    """Tokens whose KV it could hold."""


def read_cost_file(path: Path, *, attention: str = "shared") -> MeasuredEngine:
    """The engine that a results file describes, with one of its attention settings.

    Raises:
        ConfigError: the file cannot be read, or lacks what is needed.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != _SCHEMA:
            raise ConfigError(f"{path} is not of the schema {_SCHEMA}", param="cost")
        return _fit(found, attention)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", param="cost") from None
    except (KeyError, IndexError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{path} is not a complete result of `parrot bench engine`: {reason}", param="cost"
        ) from None


def _fit(found: Mapping[str, Any], attention: str) -> MeasuredEngine:
    engines = [engine for engine in found["engines"] if engine["attention"] == attention]
    engine = (engines or found["engines"])[0]
    weights, kv = float(found["floors"]["weight_bytes"]), float(found["floors"]["kv_bytes_per_token"])
    rows = [row for row in found["decode"] if row["attention"] == attention] or found["decode"]
    points = [(_bytes_read(row, weights, kv), float(row["step_s"]["median"])) for row in rows]
    overhead_s, bytes_per_s = _line(points)
    longest = max(found["prefill"], key=lambda row: row["num_tokens"])
    flops_per_token = 2.0 * engine["num_parameters"]
    reads: KvReads = "once" if attention == "shared" else "each"
    cost = CostModel(
        weight_bytes=weights,
        kv_bytes=kv,
        flops_per_token=flops_per_token,
        flops_per_pair=0.0,
        bytes_per_s=bytes_per_s,
        flops_per_s=flops_per_token * float(longest["tokens_per_s"]["median"]),
        overhead_s=overhead_s,
        kv_reads=reads,
    )
    tokens = engine["num_blocks"] * engine["block_tokens"]
    return MeasuredEngine(name=str(found["model"]), cost=cost, kv_tokens=int(tokens))


def _bytes_read(row: Mapping[str, Any], weights: float, kv: float) -> float:
    own = _SUFFIX_TOKENS + row["num_tokens"] / 2
    prefixes = 1 if row["prefix"] == "shared" else row["batch"]
    return float(weights + kv * (prefixes * row["context_tokens"] + row["batch"] * own))


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares of seconds over bytes: the constant, not negative, and bytes a second."""
    mean_x, mean_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    constant = mean_y - slope * mean_x
    if slope <= 0 or constant < 0:
        # Too few or too like measurements for two numbers: everything is reading.
        return 0.0, mean_x / mean_y
    return constant, 1 / slope
