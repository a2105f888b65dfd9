"""Where a step's time goes, for measurements: an engine built with `StepTimes` notes it, others do not.

step      ├─ plan ─┬────────────── model ──────────────┬─ sample ─┬─ text, delivery ─┤
noted              │ linear  attention  (the rest)     │ sampling │
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

import torch

from parrot.ports.clock import Clock

Part = Literal["matrix", "attention", "sampling", "model"]
"""`model` is the whole forward pass, `matrix` and `attention` are inside it."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True, kw_only=True)
class StepTime:
    """One step's seconds."""

    num_tokens: int
    began_s: float
    """When the model began, on the clock of `StepTimes`."""
    matrix_s: float = 0.0
    attention_s: float = 0.0
    sampling_s: float = 0.0
    model_s: float = 0.0


class StepTimes:
    """Collects the times of steps. Written by the step loop's thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps: list[StepTime] = []

    def begin(self, num_tokens: int) -> None:
        """A step of `num_tokens` begins."""
        self._steps.append(StepTime(num_tokens=num_tokens, began_s=self._now_s()))

    def timed(self, part: Part, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, with its time added to a part of the current step; before the first step, as it is."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not self._steps:
                return function(*args, **kwargs)
            began_s = self._now_s()
            result = function(*args, **kwargs)
            self.add(part, self._now_s() - began_s)
            return result

        return call

    def add(self, part: Part, spent_s: float) -> None:
        """Add to a part of the current step; before the first step, nothing."""
        if self._steps:
            step = self._steps[-1]
            setattr(step, f"{part}_s", getattr(step, f"{part}_s") + spent_s)

    def take(self) -> list[StepTime]:
        """The steps since the last call. To be called when the engine is idle."""
        steps, self._steps = self._steps, []
        return steps

    def _now_s(self) -> float:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        return self._clock.now_s()
