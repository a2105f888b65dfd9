"""What a model is to the engine: a function of tokens, positions and attention."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from parrot.engine.torch.linear import Linear
from parrot.engine.torch.models.shape import ModelShape

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, queries [tokens, heads, head_dim], keys, values [tokens, kv_heads, head_dim]) → [tokens, heads,
head_dim]: writes the keys and values to the cache and attends to all that each token may see."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionTraits:
    """What a model's attention is beyond softmax over all earlier tokens of queries · keys / √head_dim."""

    windows: tuple[int | None, ...] = ()
    """For each layer, how many tokens back a token sees, itself included (sliding-window attention, Beltagy
    et al. 2020); None: all of them. Empty: no layer has a window."""
    softcap: float | None = None
    """Scores s become c · tanh(s / c), which keeps them between -c and c."""
    sinks: tuple[torch.Tensor, ...] = ()
    """For each layer, the scores [heads] of a key with the value 0 that every token sees (attention sinks,
    Xiao et al. 2024). Empty: there are none."""

    def clipped(self, context_tokens: int) -> "AttentionTraits":
        """The same without the windows that no context can fill."""
        windows = tuple(None if w is None or w >= context_tokens else w for w in self.windows)
        return replace(self, windows=windows if any(windows) else ())


class Decoder(Protocol):
    """Weights and the forward pass over a flat list of tokens of any number of requests."""

    @property
    def shape(self) -> ModelShape:
        """Its sizes."""
        ...

    @property
    def num_parameters(self) -> int:
        """Weights, tied ones counted once."""
        ...

    @property
    def attention(self) -> AttentionTraits:
        """What its attention is."""
        ...

    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, logit_rows: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """Run `token_ids` ([tokens]) at `positions` ([tokens]); returns the logits [rows, vocabulary] of the
        tokens numbered in `logit_rows` ([rows]).
        """
        ...

    def wrap_linears(self, wrap: Callable[[Linear], Linear]) -> None:
        """Put something around every matrix product, for measurements."""
        ...
