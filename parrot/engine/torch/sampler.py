"""Logits to tokens, for all requests of a step at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from parrot.engine.native.kernels import NativeKernels
from parrot.engine.torch.grammar import OutputBound, TokenMasks
from parrot.types.sampling import Sampling

COMPLETE = -1
"""Stands for a token where a grammar allows no further one."""


@dataclass(slots=True, kw_only=True)
class Choice:
    """How one request's next token is chosen."""

    sampling: Sampling
    generator: torch.Generator
    """The request's own, on the CPU; one number is drawn for each token, so a seed gives the same text in
    any batch."""
    bound: OutputBound | None = None
    """What the output may be, if its request says so."""
    num_generated: int = 0

    @property
    def heeds_eos(self) -> bool:
        """End of sequence may come now."""
        return not self.sampling.ignore_eos and self.num_generated >= self.sampling.min_tokens

    @property
    def is_greedy(self) -> bool:
        """The likeliest token is taken, whichever it is."""
        return self.sampling.temperature <= 0 and self.bound is None


class Sampler:
    """Chooses tokens; knows the vocabulary's size and the end-of-sequence ids."""

    def __init__(
        self,
        *,
        vocab_size: int,
        eos_ids: Sequence[int],
        device: torch.device,
        masks: TokenMasks | None = None,
        kernels: NativeKernels | None = None,
    ) -> None:
        self._vocab_size = vocab_size
        self._masks = masks
        self._kernels = kernels
        eos = [token_id for token_id in eos_ids if token_id < vocab_size]
        self._eos = torch.tensor(eos, dtype=torch.int64, device=device)
        self._device = device

    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, choices: Sequence[Choice]) -> list[int | None]:
        """One token for each row of `logits` ([requests, vocabulary], any float type, may be overwritten).

        None stands for a row with numbers that are not finite, `COMPLETE` for one whose grammar allows no
        further token. End-of-sequence tokens cannot be chosen while they are not heeded, nor ids for which
        the tokenizer has no token.
        """
        if self._kernels is not None and all(choice.is_greedy for choice in choices):
            return self._take_likeliest(self._kernels, logits, choices)
        logits = logits[:, : self._vocab_size].float()
        finite = torch.isfinite(logits).all(dim=1)
        deaf = [row for row, choice in enumerate(choices) if not choice.heeds_eos]
        if deaf and self._eos.numel():
            rows = torch.tensor(deaf, device=self._device)
            logits[rows[:, None], self._eos] = float("-inf")
        bounded = [row for row, choice in enumerate(choices) if choice.bound is not None]
        complete = self._mask(logits, bounded, choices) if bounded else []
        tokens = logits.argmax(dim=1)
        drawn = [row for row, choice in enumerate(choices) if choice.sampling.temperature > 0]
        if drawn:
            rows = torch.tensor(drawn, device=self._device)
            tokens[rows] = self._draw(logits[rows], [choices[row] for row in drawn])
        if complete:
            tokens[complete] = COMPLETE
        return [token if good else None for token, good in zip(tokens.tolist(), finite.tolist(), strict=True)]

    def _take_likeliest(
        self, kernels: NativeKernels, logits: torch.Tensor, choices: Sequence[Choice]
    ) -> list[int | None]:
        """What `sample` does when nothing is drawn or bounded, in one pass over the logits as they are."""
        deaf = [row for row, choice in enumerate(choices) if not choice.heeds_eos]
        if deaf and self._eos.numel():
            logits[torch.tensor(deaf)[:, None], self._eos] = torch.finfo(logits.dtype).min
        tokens = kernels.argmax(logits, self._vocab_size)
        return [token if token >= 0 else None for token in tokens]

    def _mask(self, logits: torch.Tensor, bounded: Sequence[int], choices: Sequence[Choice]) -> list[int]:
        """Rule out what some rows' grammars do not allow; a whole text may end, where that is heeded.

        Returns the rows that allow nothing.
        """
        assert self._masks is not None, "bounds need masks"
        bounds = [bound for choice in choices if (bound := choice.bound) is not None]
        may_end = [
            choices[row].heeds_eos and bound.may_end for row, bound in zip(bounded, bounds, strict=True)
        ]
        forbidden, empty = self._masks.forbidden(bounds, may_end)
        forbidden = forbidden.to(self._device)
        if len(bounded) == len(choices):
            logits.masked_fill_(forbidden, float("-inf"))
        else:
            rows = torch.tensor(bounded, device=self._device)
            logits[rows] = logits[rows].masked_fill_(forbidden, float("-inf"))
        return [row for row, is_empty in zip(bounded, empty, strict=True) if is_empty]

    def _draw(self, logits: torch.Tensor, choices: Sequence[Choice]) -> torch.Tensor:
        """Temperature, then top-k, top-p and min-p, then a draw by the inverse of the distribution."""

        def column(values: Sequence[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=self._device)[:, None]

        temperature = column([choice.sampling.temperature for choice in choices])
        top_k = column([choice.sampling.top_k or self._vocab_size for choice in choices])
        top_p = column([choice.sampling.top_p for choice in choices])
        min_p = column([choice.sampling.min_p for choice in choices])
        uniform = column([float(torch.rand((), generator=choice.generator)) for choice in choices])
        scaled = (logits - logits.amax(dim=1, keepdim=True)) / temperature
        probabilities, order = torch.softmax(scaled, dim=1).sort(dim=1, descending=True, stable=True)
        rank = torch.arange(self._vocab_size, device=self._device)
        probabilities = probabilities.masked_fill(rank >= top_k, 0.0)
        before = probabilities.cumsum(dim=1) - probabilities
        mass = probabilities.sum(dim=1, keepdim=True)
        outside = (before >= top_p * mass) & (rank > 0)
        outside |= probabilities < min_p * probabilities[:, :1]
        cumulated = probabilities.masked_fill(outside, 0.0).cumsum(dim=1)
        target = uniform * cumulated[:, -1:]
        index = torch.searchsorted(cumulated, target, right=True).clamp(max=self._vocab_size - 1)
        return order.gather(1, index).squeeze(1)
