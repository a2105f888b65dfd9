"""Logits to tokens, for all requests of a step at once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from parrot.engine.native.kernels import NativeKernels
from parrot.engine.torch.grammar import OutputBound, TokenMasks, unpack_mask
from parrot.types.sampling import Sampling

COMPLETE = -2
"""Stands for a token where a grammar allows no further one."""
_SPOILT = -1
"""Stands for a token where logits are not finite."""
_NUM_CANDIDATES = 512
"""Tokens among which top-k and top-p are first looked for. The same for all, so that a row's choice does not
depend on its batch."""


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
    generated: Counter[int] = field(default_factory=Counter)
    """How often each token came so far; empty where nothing depends on it."""

    def note(self, token_id: int) -> None:
        """A token was generated."""
        self.num_generated += 1
        if self.sampling.frequency_penalty or self.sampling.presence_penalty:
            self.generated[token_id] += 1

    def changes(self) -> dict[int, float]:
        """What is added to logits, by token."""
        sampling = self.sampling
        changes = {
            token_id: -(sampling.presence_penalty + sampling.frequency_penalty * count)
            for token_id, count in self.generated.items()
        }
        for token_id, bias in sampling.logit_bias:
            changes[token_id] = changes.get(token_id, 0.0) + bias
        return changes

    @property
    def heeds_eos(self) -> bool:
        """End of sequence may come now."""
        return not self.sampling.ignore_eos and self.num_generated >= self.sampling.min_tokens

    def draw_number(self) -> float:
        """What decides the next draw, in [0, 1); 0 when nothing is drawn."""
        return float(torch.rand((), generator=self.generator)) if self.sampling.temperature > 0 else 0.0


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
        logits = logits[:, : self._vocab_size]
        bounded = [row for row, choice in enumerate(choices) if choice.bound is not None]
        masks, complete = self._masks_of(bounded, choices) if bounded else (None, [])
        uniform = [choice.draw_number() for choice in choices]
        self._change(logits, choices)
        if self._kernels is not None:
            tokens = self._sample_natively(self._kernels, logits, choices, uniform, bounded, masks)
        else:
            finite = torch.isfinite(logits).all(dim=1)
            logits = logits.float()
            self._silence_eos(logits, choices)
            if masks is not None:
                rows = torch.tensor(bounded, device=self._device)
                allowed = unpack_mask(masks, self._vocab_size).to(self._device)
                logits[rows] = logits[rows].masked_fill_(~allowed, float("-inf"))
            tokens = torch.where(finite, self._choose(logits, choices, uniform), _SPOILT).tolist()
        for row in complete:
            tokens[row] = COMPLETE
        return [None if token == _SPOILT else token for token in tokens]

    def _masks_of(self, bounded: Sequence[int], choices: Sequence[Choice]) -> tuple[torch.Tensor, list[int]]:
        """What the bounded rows' grammars allow, packed, and the rows for which that is nothing.

        An output may end where its text is whole and its end is heeded.
        """
        assert self._masks is not None, "bounds need masks"
        bounds = [bound for choice in choices if (bound := choice.bound) is not None]
        may_end = [
            choices[row].heeds_eos and bound.may_end for row, bound in zip(bounded, bounds, strict=True)
        ]
        masks, empty = self._masks.allowed(bounds, may_end)
        return masks, [row for row, is_empty in zip(bounded, empty, strict=True) if is_empty]

    def _change(self, logits: torch.Tensor, choices: Sequence[Choice]) -> None:
        """Add what rows' penalties and biases add; ids beyond the vocabulary are passed over."""
        for row, choice in enumerate(choices):
            changes = {
                token: change for token, change in choice.changes().items() if token < self._vocab_size
            }
            if changes:
                ids = torch.tensor(list(changes), device=self._device)
                added = torch.tensor(list(changes.values()), dtype=torch.float32, device=self._device)
                logits[row, ids] = (logits[row, ids].float() + added).to(logits.dtype)

    def _silence_eos(self, logits: torch.Tensor, choices: Sequence[Choice]) -> None:
        deaf = [row for row, choice in enumerate(choices) if not choice.heeds_eos]
        if deaf and self._eos.numel():
            rows = torch.tensor(deaf, device=self._device)
            logits[rows[:, None], self._eos] = torch.finfo(logits.dtype).min

    def _sample_natively(
        self,
        kernels: NativeKernels,
        logits: torch.Tensor,
        choices: Sequence[Choice],
        uniform: Sequence[float],
        bounded: Sequence[int],
        masks: torch.Tensor | None,
    ) -> list[int]:
        """All rows in one call, on the logits as they are."""
        self._silence_eos(logits, choices)
        mask_numbers = {row: number for number, row in enumerate(bounded)}
        rows = [
            (
                choice.sampling.temperature,
                choice.sampling.top_p,
                choice.sampling.min_p,
                number,
                choice.sampling.top_k,
                mask_numbers.get(row, -1),
            )
            for row, (choice, number) in enumerate(zip(choices, uniform, strict=True))
        ]
        return kernels.sample(logits, rows, masks)

    def _choose(
        self, logits: torch.Tensor, choices: Sequence[Choice], uniform: Sequence[float]
    ) -> torch.Tensor:
        """The same in plain torch, on any device."""
        tokens = logits.argmax(dim=1)
        drawn = [row for row, choice in enumerate(choices) if choice.sampling.temperature > 0]
        if drawn:
            rows = torch.tensor(drawn, device=self._device)
            numbers = self._column([uniform[row] for row in drawn])
            tokens[rows] = self._draw(logits[rows], [choices[row].sampling for row in drawn], numbers)
        return tokens

    def _draw(
        self, logits: torch.Tensor, samplings: Sequence[Sampling], uniform: torch.Tensor
    ) -> torch.Tensor:
        """Temperature, then top-k, top-p and min-p, then a draw by the inverse of the distribution, in the
        order of the tokens' numbers.
        """
        temperature = self._column([sampling.temperature for sampling in samplings])
        weights = ((logits - logits.amax(dim=1, keepdim=True)) / temperature).exp_()
        cut = [row for row, sampling in enumerate(samplings) if sampling.top_k or sampling.top_p < 1]
        if cut:
            rows = torch.tensor(cut, device=self._device)
            kept = self._kept(weights[rows], [samplings[row] for row in cut], _NUM_CANDIDATES)
            weights[rows] = weights[rows].masked_fill_(~kept, 0.0)
        min_p = self._column([sampling.min_p for sampling in samplings])
        cumulated = weights.masked_fill_(weights < min_p, 0.0).cumsum(dim=1)
        total = cumulated[:, -1:]
        # Below the total, so that what is found has a weight.
        target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
        return torch.searchsorted(cumulated, target, right=True).squeeze(1)

    def _kept(
        self, weights: torch.Tensor, samplings: Sequence[Sampling], num_candidates: int
    ) -> torch.Tensor:
        """Which tokens top-k and top-p leave. The likeliest few are looked at first; rows for which these do
        not suffice are sorted.
        """
        is_sorted = num_candidates >= self._vocab_size
        if is_sorted:
            candidates, order = weights.sort(dim=1, descending=True, stable=True)
        else:
            candidates, order = weights.topk(num_candidates, dim=1)
        rank = torch.arange(candidates.shape[1], device=self._device)
        top_k = self._column([sampling.top_k or self._vocab_size for sampling in samplings])
        top_p = self._column([sampling.top_p for sampling in samplings])
        has_top_k = self._column([sampling.top_k > 0 for sampling in samplings]) > 0
        candidates = candidates.masked_fill(rank >= top_k, 0.0)
        mass = torch.where(has_top_k, candidates.sum(dim=1, keepdim=True), weights.sum(dim=1, keepdim=True))
        before = candidates.cumsum(dim=1) - candidates
        in_order = ((rank < top_k) & (before < top_p * mass)) | (rank == 0)
        kept = torch.zeros_like(weights, dtype=torch.bool).scatter_(1, order, in_order)
        if not is_sorted:
            lacking = (
                (in_order[:, -1] | (has_top_k & (top_k > num_candidates)).squeeze(1)).nonzero().squeeze(1)
            )
            if lacking.numel():
                some = [samplings[row] for row in lacking.tolist()]
                kept[lacking] = self._kept(weights[lacking], some, self._vocab_size)
        return kept

    def _column(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)[:, None]
