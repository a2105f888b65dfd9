"""Decode steps as CUDA graphs: what a step launches is recorded once for each size of batch, then replayed.

    step of 5 rows → bucket 8    token ids, positions, slots  [▪▪▪▪▪···]   copied into the bucket's buffers
                                 work tables                  [▪▪▪······]   filled up with nothing
                                 replay → logits              [▪▪▪▪▪···]   the first 5 rows

A recording reads the buffers it was made with, so every step of a bucket has to fit into the same ones. Rows
that fill a bucket up compute one token at position 0 that sees one slot, and write to the scratch slot. A
step that is not one of single tokens whose logits are wanted, or that does not fit, is run as it is.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from parrot.engine.torch.cuda.attention import TritonAttention
from parrot.engine.torch.models.decoder import Decoder
from parrot.engine.torch.step_input import StepInput

logger = logging.getLogger(__name__)

Replay = Callable[[], None]
Record = Callable[[Callable[[], torch.Tensor]], tuple[Replay, torch.Tensor]]
"""Records what a function launches: what does that again, and the tensor in which its result is then."""

_NUM_WARM_UPS = 2
"""Runs before the recording, in which libraries set themselves up and kernels are compiled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bucket:
    """The buffers of steps with up to so many rows, and the recording over them."""

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    logit_rows: torch.Tensor

    @classmethod
    def make(cls, num_rows: int, *, scratch_slot: int, device: torch.device) -> "_Bucket":
        """Buffers of rows that fill up."""
        return cls(
            token_ids=torch.zeros(num_rows, dtype=torch.int64, device=device),
            positions=torch.zeros(num_rows, dtype=torch.int64, device=device),
            slots=torch.full((num_rows,), scratch_slot, device=device),
            logit_rows=torch.arange(num_rows, device=device),
        )

    def load(self, step: StepInput, scratch_slot: int) -> None:
        """Take over a step's rows; those after them fill up."""
        count = len(step.rows)
        for buffer, filled, rest in (
            (self.token_ids, step.token_ids, 0),
            (self.positions, step.positions, 0),
            (self.slots, step.slots, scratch_slot),
        ):
            buffer[:count] = filled
            buffer[count:] = rest


class DecodeGraphs:
    """The recordings of one model over one cache. Used by the step loop's thread."""

    def __init__(
        self,
        model: Decoder,
        attention: TritonAttention,
        *,
        max_batch: int,
        context_tokens: int,
        scratch_slot: int,
        device: torch.device,
        record: Record,
    ) -> None:
        self._model = model
        self._attention = attention
        self._max_batch = max_batch
        self._context_tokens = context_tokens
        self._scratch_slot = scratch_slot
        self._device = device
        self._record = record
        self._buckets: dict[int, _Bucket] = {}
        self._recorded: dict[int, tuple[Replay, torch.Tensor]] = {}
        self._has_failed = False

    def run(self, step: StepInput) -> torch.Tensor | None:
        """The logits of a step, valid until the next one; None when it has to be run as it is."""
        size = None if self._has_failed else bucket_of(step, self._max_batch)
        if size is None:
            return None
        if size not in self._buckets:
            self._buckets[size] = _Bucket.make(size, scratch_slot=self._scratch_slot, device=self._device)
        bucket = self._buckets[size]
        bucket.load(step, self._scratch_slot)
        if not self._attention.begin_padded(step, bucket.slots, self._context_tokens):
            return None
        if size not in self._recorded:
            try:
                self._recorded[size] = self._record(lambda: self._compute(bucket))
            except RuntimeError:
                logger.warning(
                    "decode steps cannot be recorded as CUDA graphs; they run as they are", exc_info=True
                )
                self._has_failed = True
                return None
        replay, logits = self._recorded[size]
        replay()
        return logits[: len(step.rows)]

    def _compute(self, bucket: _Bucket) -> torch.Tensor:
        return self._model.forward(
            bucket.token_ids, bucket.positions, bucket.logit_rows, self._attention.attend
        )


def bucket_of(step: StepInput, max_batch: int) -> int | None:
    """Rows of the buffers for a step: the next power of two, or the largest batch; None for a step that is
    not one token of each request with its logits.
    """
    count = len(step.rows)
    if any(rows.num_rows != 1 for rows in step.rows) or len(step.logit_rows) != count or count > max_batch:
        return None
    return min(max_batch, 1 << (count - 1).bit_length())


def record_on_device(work: Callable[[], torch.Tensor]) -> tuple[Replay, torch.Tensor]:
    """A `Record` by a CUDA graph."""
    before = torch.cuda.current_stream()
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(before)
    with torch.cuda.stream(aside):
        for _ in range(_NUM_WARM_UPS):
            work()
    before.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = work()
    return graph.replay, logits
