"""Rotary position embedding (Su et al. 2021) with the scalings of long-context models."""

import math

import torch

from parrot.engine.torch.models.llama_shape import RopeShape


def rope_tables(
    rope: RopeShape, *, head_dim: int, num_positions: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, [positions, head_dim / 2] each, computed in float32."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32)
    frequencies = _scale(rope, 1.0 / rope.theta ** (steps / head_dim), head_dim)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    factor = _attention_factor(rope)
    return (angles.cos() * factor).to(device, dtype), (angles.sin() * factor).to(device, dtype)


def rotate(vectors: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotate [tokens, heads, head_dim] by [tokens, 1, head_dim / 2]; a pair is made of equal places in the
    two halves of a head.
    """
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


def _attention_factor(rope: RopeShape) -> float:
    """What queries and keys are multiplied with on top: YaRN (Peng et al. 2023), section 3.4."""
    if rope.kind != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    return 0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0


def _scale(rope: RopeShape, frequencies: torch.Tensor, head_dim: int) -> torch.Tensor:
    match rope.kind:
        case "default":
            return frequencies
        case "linear":
            return frequencies / rope.factor
        case "llama3":
            # Wave lengths beyond the original window are stretched, short ones left, between them a blend.
            turns = rope.original_context_tokens * frequencies / (2 * math.pi)
            kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        case "yarn":
            kept = 1 - _yarn_ramp(rope, head_dim)
    kept = kept.clamp(0.0, 1.0)
    return (1 - kept) * frequencies / rope.factor + kept * frequencies


def _yarn_ramp(rope: RopeShape, head_dim: int) -> torch.Tensor:
    """From 0 at the dimension that turns `beta_fast` times within the original window to 1 at the one that
    turns `beta_slow` times; linear in the dimension.
    """

    def dimension(turns: float) -> float:
        wave = rope.original_context_tokens / (turns * 2 * math.pi)
        return head_dim * math.log(wave) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.rounds_range:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return (torch.arange(head_dim // 2, dtype=torch.float32) - low) / max(high - low, 1e-3)
