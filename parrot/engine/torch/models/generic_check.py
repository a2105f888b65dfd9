"""Whether a decoder is what the engine takes it for: a function of tokens, positions and causal attention.

Two sequences are run in two steps, packed together, over a KV cache:

    step 1   [a: first half][b: first half]
    step 2   [a: the rest][b: the rest]

and must give the logits that each gives alone and at once. A model that mixes neighbouring tokens, counts its
positions by itself, keeps a state of its own or hides other keys than it says does not.
"""

from collections.abc import Callable, Sequence

import torch

from parrot.engine.torch.attention import ReferenceAttention
from parrot.engine.torch.contexts import Context
from parrot.engine.torch.kv_cache import KvCache, KvShape
from parrot.engine.torch.models.decoder import Decoder
from parrot.engine.torch.models.placement import Placement
from parrot.engine.torch.step_input import QueryRows, Span, StepInput
from parrot.types.ids import ContextId

_LENGTHS = (24, 17)
"""Tokens of the two sequences."""
_BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest error of a row's logits, as a share of their spread. Rounding gives a tenth of it, a wrong
attention several times as much."""

OwnLogits = Callable[[torch.Tensor], torch.Tensor]
"""Token ids [tokens] → logits [tokens, vocabulary], by the model's own attention."""


@torch.inference_mode()
def check_decoder(decoder: Decoder, *, own_logits: OwnLogits, placement: Placement) -> str | None:
    """What is wrong, or None when all is right."""
    shape = decoder.shape
    block_tokens = max(_LENGTHS)
    kv_shape = KvShape(
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        block_tokens=block_tokens,
        dtype=placement.dtype,
    )
    cache = KvCache(kv_shape, len(_LENGTHS), placement.device)
    attention = ReferenceAttention(cache, decoder.attention)
    random = torch.Generator().manual_seed(0)
    lengths = [min(length, shape.context_tokens) for length in _LENGTHS]
    sequences = [torch.randint(shape.vocab_size, (length,), generator=random) for length in lengths]
    halves = [length // 2 for length in lengths]
    contexts = [Context(ContextId(at), None, 0) for at in range(len(sequences))]
    expected = [own_logits(tokens.to(placement.device)).float() for tokens in sequences]
    for firsts, ends in (([0, 0], halves), (halves, lengths)):
        spans = [
            (Span(context, first, ((at * block_tokens, first),)),) if first else ()
            for at, (context, first) in enumerate(zip(contexts, firsts, strict=True))
        ]
        step = _pack(sequences, firsts, ends, spans, block_tokens, placement.device)
        attention.begin(step)
        logits = decoder.forward(step.token_ids, step.positions, step.logit_rows, attention.attend).float()
        for at, rows in enumerate(step.rows):
            wanted = expected[at][firsts[at] : ends[at]]
            error = _error(logits[rows.slice], wanted)
            if not error <= _BOUNDS[placement.dtype]:
                return (
                    f"computed in pieces, its logits differ by {error:.0%} of their spread from its own; it "
                    "is not a function of tokens, positions and causal attention"
                )
    return None


def _pack(
    sequences: Sequence[torch.Tensor],
    firsts: Sequence[int],
    ends: Sequence[int],
    spans: Sequence[tuple[Span, ...]],
    block_tokens: int,
    device: torch.device,
) -> StepInput:
    """Tokens `firsts` … `ends` - 1 of each sequence, one after the other; each lies in a block of its own."""
    rows: list[QueryRows] = []
    positions: list[int] = []
    slots: list[int] = []
    for at, (first, end) in enumerate(zip(firsts, ends, strict=True)):
        own = ((at * block_tokens + first, end - first),)
        rows.append(QueryRows(first=len(positions), num_rows=end - first, spans=spans[at], own=own))
        positions += range(first, end)
        slots += range(at * block_tokens + first, at * block_tokens + end)
    cut = [tokens[first:end] for tokens, first, end in zip(sequences, firsts, ends, strict=True)]
    return StepInput(
        token_ids=torch.cat(cut).to(device),
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor(slots, device=device),
        rows=tuple(rows),
        logit_rows=torch.arange(len(positions), device=device),
    )


def _error(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """The median over rows of their error, as a share of their spread."""
    spread = (expected - expected.mean(dim=1, keepdim=True)).pow(2).mean(dim=1).sqrt()
    errors = (logits - expected).pow(2).mean(dim=1).sqrt() / spread.clamp_min(1e-12)
    return float(errors.median())
