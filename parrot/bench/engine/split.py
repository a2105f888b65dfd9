"""Where the time of a prefill or of a decode step goes."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from parrot.bench.engine.driver import EngineDriver
from parrot.bench.engine.report import SplitResult
from parrot.bench.spread import Spread, spread
from parrot.engine.torch.timing import StepTime, StepTimes
from parrot.ports.engine import ContextRef

_Parts = dict[str, float]


async def split_prefill(
    driver: EngineDriver, times: StepTimes, *, num_tokens: int, repeats: int
) -> SplitResult:
    """Filling an empty context, all its steps together. `driver`'s engine was built with `times`."""
    found: list[_Parts] = []
    for repeat in range(repeats + 1):
        times.take()
        whole_s = await driver.prefill_s(num_tokens)
        if repeat:
            found.append(_parts(times.take(), whole_s))
    return SplitResult(phase="prefill", batch=1, context_tokens=num_tokens, **_spreads(found))


async def split_decode(
    driver: EngineDriver,
    times: StepTimes,
    *,
    batch: int,
    context_tokens: int,
    suffix_tokens: int,
    num_tokens: int,
    repeats: int,
) -> SplitResult:
    """Decoding after one shared prefix, a median step. `driver`'s engine was built with `times`."""
    found: list[_Parts] = []
    for _ in range(repeats):
        prefix = await driver.fill(context_tokens)
        times.take()
        # One token more, for the last step's end is seen by the beginning of the next.
        await driver.decode(
            [ContextRef(context_id=prefix.context_id, num_tokens=context_tokens)] * batch,
            suffix_tokens=suffix_tokens,
            num_tokens=num_tokens + 1,
        )
        found.append(_median_step(times.take(), batch))
        await driver.free([prefix])
    return SplitResult(phase="decode", batch=batch, context_tokens=context_tokens, **_spreads(found))


def _median_step(steps: Sequence[StepTime], batch: int) -> _Parts:
    """Of the steps in which the whole batch decoded, the median of each part."""
    whole = [
        _parts([step], after.began_s - step.began_s)
        for step, after in pairwise(steps)
        if step.num_tokens == after.num_tokens == batch
    ]
    return {name: median(parts[name] for parts in whole) for name in whole[0]}


def _parts(steps: Sequence[StepTime], whole_s: float) -> _Parts:
    matrix_s = sum(step.matrix_s for step in steps)
    attention_s = sum(step.attention_s for step in steps)
    sampling_s = sum(step.sampling_s for step in steps)
    model_s = sum(step.model_s for step in steps)
    return {
        "step_s": whole_s,
        "matrix_s": matrix_s,
        "attention_s": attention_s,
        "sampling_s": sampling_s,
        "model_rest_s": model_s - matrix_s - attention_s,
        "outside_s": whole_s - model_s - sampling_s,
    }


def _spreads(found: Sequence[_Parts]) -> dict[str, Spread]:
    return {name: spread(parts[name] for parts in found) for name in found[0]}
