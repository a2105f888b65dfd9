"""How likely tokens were, for the requests of a step that ask for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from parrot.ports.engine import TokenLogprob
from parrot.types.sampling import Sampling


@dataclass(frozen=True, slots=True)
class StepLogprobs:
    """Log-probabilities of all tokens, of some rows of a step's logits."""

    logprobs: torch.Tensor
    """[rows that asked, vocabulary], float32."""
    top: tuple[tuple[tuple[int, float], ...], ...]
    """Of each row that asked, as many of the likeliest tokens as it asked for."""
    places: dict[int, int]
    """Row of the step → row here."""

    def of(self, row: int, token_id: int) -> TokenLogprob | None:
        """How likely a token was in one row of the step; None when that row did not ask, and for what
        stands for no token.
        """
        place = self.places.get(row)
        if place is None or token_id < 0:
            return None
        return TokenLogprob(
            token_id=token_id, logprob=float(self.logprobs[place, token_id]), top=self.top[place]
        )


@torch.inference_mode()
def step_logprobs(
    logits: torch.Tensor, samplings: Sequence[Sampling], vocab_size: int
) -> StepLogprobs | None:
    """The log-probabilities that a step has to tell of; None when nobody asks. Leaves `logits` as they are.

    They are the model's own: neither temperature nor a grammar nor `min_tokens` has changed them.
    """
    asking = [row for row, sampling in enumerate(samplings) if sampling.logprobs is not None]
    if not asking:
        return None
    rows = torch.tensor(asking, device=logits.device)
    logprobs = torch.log_softmax(logits[rows, :vocab_size].float(), dim=1)
    most = max(samplings[row].logprobs or 0 for row in asking)
    values, ids = logprobs.topk(min(most, vocab_size), dim=1)
    top = tuple(
        tuple(zip(some_ids[: samplings[row].logprobs], some_values, strict=False))
        for row, some_ids, some_values in zip(asking, ids.tolist(), values.tolist(), strict=True)
    )
    return StepLogprobs(logprobs.cpu(), top, {row: place for place, row in enumerate(asking)})
