"""Whether the Triton kernels run here and give the right numbers; asked once, when an engine starts."""

import importlib.util

import torch

from parrot.engine.torch.attention import Attention, ReferenceAttention
from parrot.engine.torch.contexts import Context
from parrot.engine.torch.kv_cache import KvCache
from parrot.engine.torch.models.decoder import AttentionTraits
from parrot.engine.torch.step_input import QueryRows, Span, StepInput
from parrot.types.ids import ContextId

_NUM_SHARED = 40
_NUM_FORKS = 3
_CHUNK = 5
_BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest error of a result, where values have a standard deviation of 1."""


def open_triton_attention(cache: KvCache, *, num_heads: int, shares: bool) -> tuple[Attention | None, str]:
    """The attention by Triton, and a few words; None and why not, where it cannot be had.

    Overwrites the cache's first slots: to be called before anything has taken these.
    """
    if importlib.util.find_spec("triton") is None:
        return None, "Triton is not installed"
    needed = _NUM_SHARED + _NUM_FORKS + _CHUNK
    if cache.scratch_slot < needed:
        return None, f"the cache has fewer than the {needed} slots that the check needs"
    import triton

    from parrot.engine.torch.cuda.attention import TritonAttention

    attention = TritonAttention(cache, num_heads=num_heads, shares=shares)
    try:
        error = _error(cache, attention, num_heads)
    except (triton.TritonError, RuntimeError, TypeError, ValueError) as failure:
        return None, f"Triton's kernels cannot be compiled here: {type(failure).__name__}"
    if not error <= _BOUNDS[cache.shape.dtype]:
        return None, f"Triton's kernels are wrong by {error:.2g} here"
    return attention, "Triton kernels"


@torch.inference_mode()
def _error(cache: KvCache, attention: Attention, num_heads: int) -> float:
    """The largest difference from the reference, over forks of one prefix and a chunk."""
    step = _make_step(cache.keys.device)
    shape, random = cache.shape, torch.Generator().manual_seed(0)

    def normal(num_rows: int, heads: int) -> torch.Tensor:
        numbers = torch.randn(num_rows, heads, shape.head_dim, generator=random)
        return numbers.to(cache.keys.device, shape.dtype)

    before = torch.arange(_NUM_SHARED, device=cache.keys.device)
    cache.write(0, before, normal(_NUM_SHARED, shape.num_kv_heads), normal(_NUM_SHARED, shape.num_kv_heads))
    num_rows = len(step.token_ids)
    queries = normal(num_rows, num_heads)
    keys, values = normal(num_rows, shape.num_kv_heads), normal(num_rows, shape.num_kv_heads)
    reference = ReferenceAttention(cache, AttentionTraits())
    reference.begin(step)
    expected = reference.attend(0, queries, keys, values)
    attention.begin(step)
    found = attention.attend(0, queries, keys, values)
    return float((found.float() - expected.float()).abs().max())


def _make_step(device: torch.device) -> StepInput:
    """Some forks of one prefix with one token each, and a chunk that goes on from a part of it."""
    prefix = Context(ContextId(0), None, 0)
    whole = Span(prefix, _NUM_SHARED, ((0, _NUM_SHARED),))
    part = Span(prefix, _NUM_SHARED - 3, ((0, _NUM_SHARED - 3),))
    rows = [
        QueryRows(first=at, num_rows=1, spans=(whole,), own=((_NUM_SHARED + at, 1),))
        for at in range(_NUM_FORKS)
    ]
    chunk = ((_NUM_SHARED + _NUM_FORKS, _CHUNK),)
    rows.append(QueryRows(first=_NUM_FORKS, num_rows=_CHUNK, spans=(part,), own=chunk))
    places = torch.arange(_NUM_FORKS + _CHUNK, device=device)
    return StepInput(
        token_ids=places,
        positions=places,
        slots=places + _NUM_SHARED,
        rows=tuple(rows),
        logit_rows=places,
    )
