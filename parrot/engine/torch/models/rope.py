"""Rotary position embedding (Su et al. 2021) with the scalings of long-context models."""

import math

import torch

from parrot.engine.torch.models.shape import RopeShape


def rope_tables(
    rope: RopeShape, *, head_dim: int, num_positions: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, [positions, head_dim / 2] each, computed in float32."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32)
    frequencies = _scale(rope, 1.0 / rope.theta ** (steps / head_dim))
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)


def rotate(vectors: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotate [tokens, heads, head_dim] by [tokens, 1, head_dim / 2]; a pair is made of equal places in the
    two halves of a head.
    """
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


def _scale(rope: RopeShape, frequencies: torch.Tensor) -> torch.Tensor:
    if rope.kind == "default":
        return frequencies
    if rope.kind == "linear":
        return frequencies / rope.factor
    # Llama 3: wave lengths beyond the original window are stretched, short ones left, between them a blend.
    turns = rope.original_context_tokens * frequencies / (2 * math.pi)
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * frequencies / rope.factor + blend * frequencies
