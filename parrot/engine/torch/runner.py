"""Runs planned chunks through the model."""

from collections.abc import Callable, Sequence

import torch

from parrot.engine.torch.attention import Attention
from parrot.engine.torch.batcher import Chunk
from parrot.engine.torch.contexts import ContextTree
from parrot.engine.torch.kv_cache import SlotCache
from parrot.engine.torch.models.decoder import Decoder
from parrot.engine.torch.step_input import QueryRows, StepInput, build_step_input
from parrot.engine.torch.timing import StepTimes


def _do_nothing() -> None:
    """Nobody waits for a step to be ready."""


class Runner:
    """The model, the cache and the attention between them."""

    def __init__(
        self,
        *,
        model: Decoder,
        cache: SlotCache,
        tree: ContextTree,
        attention: Attention,
        device: torch.device,
        times: StepTimes | None = None,
        replay: Callable[[StepInput], torch.Tensor | None] | None = None,
    ) -> None:
        """`replay` is asked first for the logits of a step; None from it: the model has to run."""
        self._model = model
        self._cache = cache
        self._tree = tree
        self._begin, self._attend, self._forward = attention.begin, attention.attend, self._compute
        self._device = device
        self._times = times
        self._replay = replay
        if times is not None:
            self._begin = times.timed("model", times.timed("attention", self._begin))
            self._attend = times.timed("attention", self._attend)
            self._forward = times.timed("model", self._forward)
            model.wrap_linears(lambda linear: times.timed("matrix", linear))

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk], on_ready: Callable[[], None] = _do_nothing) -> torch.Tensor:
        """Compute the chunks' KV into the cache; returns the logits of those that want them, in order.

        Running a chunk again gives the same: nothing else is changed. `on_ready` is called when all is laid
        out: other threads can do what it asks of them while the interpreter is left to them.
        """
        step = build_step_input(chunks, self._tree, self._cache, self._device)
        if self._times is not None:
            self._times.begin(step.token_ids.shape[0])
        logits = None if self._replay is None else self._replay(step)
        if logits is None:
            self._begin(step)
            on_ready()
            return self._forward(step)
        # What was replayed is under way on its device.
        on_ready()
        return logits

    @torch.inference_mode()
    def warm_up(self, num_tokens: int) -> None:
        """Run tokens in the first slots, before anything has taken these, so that the first request does not
        pay for lazy set-up.
        """
        rows = QueryRows(first=0, num_rows=num_tokens, spans=(), own=((0, num_tokens),))
        step = StepInput(
            token_ids=torch.zeros(num_tokens, dtype=torch.int64, device=self._device),
            positions=torch.arange(num_tokens, device=self._device),
            slots=torch.arange(num_tokens, device=self._device),
            rows=(rows,),
            logit_rows=torch.tensor([num_tokens - 1], device=self._device),
        )
        self._begin(step)
        self._compute(step)

    def _compute(self, step: StepInput) -> torch.Tensor:
        return self._model.forward(step.token_ids, step.positions, step.logit_rows, self._attend)
