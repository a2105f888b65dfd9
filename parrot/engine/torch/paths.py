"""Which code computes: the native kernels or torch, and which attention over which cache."""

from dataclasses import dataclass

import torch

from parrot.engine.native.kernels import NativeKernels, load_native
from parrot.engine.torch.attention import Attention, ReferenceAttention
from parrot.engine.torch.config import AttentionKind, TorchConfig
from parrot.engine.torch.cuda.check import open_triton_attention
from parrot.engine.torch.kv_cache import KvCache, KvShape, SlotCache
from parrot.engine.torch.models.decoder import AttentionTraits
from parrot.engine.torch.native_attention import NativeAttention
from parrot.engine.torch.native_cache import NativeKvCache
from parrot.engine.torch.tree_attention import TreeAttention
from parrot.errors import ConfigError

DEFAULT_THREADS = torch.get_num_threads()
"""Threads that torch takes where nobody has told it. Asked once: what a thread tells torch for itself, torch
takes for all that come later, so a second engine in the process would learn what the first chose.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPath:
    """An attention, the cache that it reads, and what to say of it."""

    attention: Attention
    cache: SlotCache
    words: str
    is_triton: bool = False


def choose_kernels(
    config: TorchConfig, *, dtype: torch.dtype, device: torch.device
) -> tuple[NativeKernels | None, str]:
    """The native kernels, if they are wanted and to be had, and a few words on what computes.

    Raises:
        ConfigError: `bad_config`; they are demanded and not to be had, or cannot do what is asked for.
    """
    kernels, words = _find_kernels(config, dtype=dtype, device=device)
    if config.weights == "int8" and (kernels is None or not kernels.has_linear or dtype != torch.bfloat16):
        raise ConfigError(
            f"weights in int8 need a CPU with AVX512-BF16, native kernels and bfloat16; here are {words}, "
            f"{str(dtype).removeprefix('torch.')}",
            param="engine.weights",
        )
    return kernels, words


def _find_kernels(
    config: TorchConfig, *, dtype: torch.dtype, device: torch.device
) -> tuple[NativeKernels | None, str]:
    if config.kernels == "torch" or (config.kernels == "auto" and device.type != "cpu"):
        return None, "torch kernels"
    kernels = load_native(
        num_threads=config.num_threads or DEFAULT_THREADS, int8_weights=config.weights == "int8"
    )
    reason = None
    if device.type != "cpu":
        reason = f"there are none for {device.type}"
    elif dtype not in (torch.bfloat16, torch.float32):
        reason = f"there are none for {dtype}"
    elif kernels is None:
        reason = "they were not built when the package was installed"
    if kernels is not None and reason is None:
        return kernels, kernels.describe()
    if config.kernels == "native":
        raise ConfigError(f"native kernels are demanded: {reason}", param="engine.kernels")
    return None, f"torch kernels (no native ones: {reason})"


def choose_attention(
    kind: AttentionKind,
    traits: AttentionTraits,
    kernels: NativeKernels | None,
    *,
    kv_shape: KvShape,
    num_blocks: int,
    num_heads: int,
    device: torch.device,
) -> AttentionPath:
    """The wanted kind of attention, or the nearest that can do what the model needs, and a cache for it."""
    words = f"{kind} attention"
    if traits.softcap is not None or traits.sinks:
        kind, words = "reference", "reference attention (the model caps its scores or has sinks)"
    shares = kind == "shared"
    reason = _why_not_native(traits, kv_shape)
    if kernels is not None and kind != "reference" and reason is None:
        native_cache = NativeKvCache(kv_shape, num_blocks)
        native = NativeAttention(kernels, native_cache, num_heads=num_heads, shares=shares)
        return AttentionPath(attention=native, cache=native_cache, words=words)
    if traits.windows:
        words += " in windows"
    if kernels is not None and kind != "reference":
        words += f" by torch ({reason})"
    cache = KvCache(kv_shape, num_blocks, device)
    if kind == "reference":
        return AttentionPath(attention=ReferenceAttention(cache, traits), cache=cache, words=words)
    if device.type == "cuda" and not traits.windows:
        triton, triton_words = open_triton_attention(cache, num_heads=num_heads, shares=shares)
        if triton is not None:
            return AttentionPath(
                attention=triton, cache=cache, words=f"{words} by {triton_words}", is_triton=True
            )
        words += f" by torch ({triton_words})"
    return AttentionPath(attention=TreeAttention(cache, traits, shares=shares), cache=cache, words=words)


def _why_not_native(traits: AttentionTraits, kv_shape: KvShape) -> str | None:
    if traits.windows:
        return "the kernels know no windows"
    if kv_shape.head_dim % 16:
        return f"the kernels know no heads of {kv_shape.head_dim} dimensions"
    return None
