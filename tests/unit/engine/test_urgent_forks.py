"""A request that forks from what is still being filled with the lowest priority does not wait behind it."""

from collections.abc import Callable, Sequence
from typing import Literal

import pytest

from parrot.core.executor.ahead import PRIORITY
from parrot.engine.accounting import ContextTree
from parrot.engine.batching import Batcher
from parrot.ports.engine import ContextRef, FillRequest, GenerateRequest
from parrot.sim.batch import StrideBatch
from parrot.sim.cost import CostModel
from parrot.types.ids import ContextId, RequestId
from parrot.types.sampling import Sampling

Request = FillRequest | GenerateRequest
STEP_TOKENS = 16


class Words:
    """An output that goes on until it is stopped."""

    def advance(self, limit: int) -> tuple[tuple[int, ...], str, Literal["more", "stop"]]:
        return (7,) * limit, "", "more"

    def finish(self) -> tuple[str, bool]:
        return "", True


def scripted(max_batch: int) -> Callable[[Sequence[Request]], list[str]]:
    """The names of requests in the order in which the scripted engine's batcher ends them."""

    def run(made: Sequence[Request]) -> list[str]:
        batcher = Batcher(
            ContextTree(num_blocks=1000, block_tokens=4),
            max_batch=max_batch,
            step_tokens=STEP_TOKENS,
            tokens_per_step=1,
            context_tokens=4000,
            begin=lambda _: Words(),
        )
        for request in made:
            batcher.submit(request)
        ended: list[str] = []
        while batcher.can_step:
            step = batcher.step()
            ended += [work.request.request_id for work, _ in step.filled]
            ended += [work.request.request_id for work, chunk in step.chunks if chunk.end is not None]
        return ended

    return run


def simulated(max_batch: int) -> Callable[[Sequence[Request]], list[str]]:
    """The same of the simulated engine's."""

    def run(made: Sequence[Request]) -> list[str]:
        cost = CostModel(
            weight_bytes=1.0,
            kv_bytes=0.0,
            flops_per_token=0.0,
            flops_per_pair=0.0,
            bytes_per_s=1.0,
            flops_per_s=1.0,
            overhead_s=0.0,
        )
        batch = StrideBatch(
            ContextTree(num_blocks=1000, block_tokens=4),
            cost,
            max_batch=max_batch,
            step_tokens=STEP_TOKENS,
            chunked=True,
            context_tokens=4000,
        )
        for request in made:
            batch.submit(request)
        ended: list[str] = []
        while batch.begin() is not None:
            ended += [work.request.request_id for work in batch.end().ended]
        return ended

    return run


def fill(name: str, context: int, num_tokens: int, *, priority: int, parent: int | None = None) -> Request:
    start = ContextRef(context_id=ContextId(parent), num_tokens=num_tokens) if parent is not None else None
    return FillRequest(
        request_id=RequestId(name),
        context_id=ContextId(context),
        token_ids=(1,) * num_tokens,
        parent=start,
        priority=priority,
    )


def fork(name: str, context: int, parent: int, at: int, *, priority: int = 0) -> Request:
    return GenerateRequest(
        request_id=RequestId(name),
        context_id=ContextId(context),
        token_ids=(2,),
        parent=ContextRef(context_id=ContextId(parent), num_tokens=at),
        sampling=Sampling(max_tokens=1, ignore_eos=True),
        priority=priority,
    )


OTHERS = [fill(f"other {i}", 100 + i, 64, priority=5) for i in range(6)]
BATCHES = pytest.mark.parametrize("max_batch", [1, 8], ids=["one at a time", "batched"])
ENGINES = pytest.mark.parametrize("engine", [scripted, simulated])


@ENGINES
@BATCHES
def test_what_is_filled_ahead_is_raised_when_a_call_forks_from_it(
    engine: Callable[[int], Callable[[Sequence[Request]], list[str]]], max_batch: int
) -> None:
    ahead = fill("ahead", 1, 64, priority=PRIORITY)
    run = engine(max_batch)
    assert run([ahead, *OTHERS])[-1] == "ahead"
    assert run([ahead, *OTHERS, fork("call", 2, 1, 64)])[:2] == ["ahead", "call"]


@ENGINES
@BATCHES
def test_so_is_what_that_waits_for_in_turn(
    engine: Callable[[int], Callable[[Sequence[Request]], list[str]]], max_batch: int
) -> None:
    first = fill("first", 1, 64, priority=PRIORITY)
    second = fill("second", 2, 64, priority=PRIORITY, parent=1)
    ended = engine(max_batch)([first, second, *OTHERS, fork("call", 3, 2, 128)])
    assert ended[:3] == ["first", "second", "call"]


@ENGINES
@BATCHES
def test_a_fill_that_comes_after_the_one_that_waits_for_it_is_raised_too(
    engine: Callable[[int], Callable[[Sequence[Request]], list[str]]], max_batch: int
) -> None:
    ahead = fill("ahead", 1, 32, priority=PRIORITY)
    more = fill("more", 1, 32, priority=PRIORITY)
    ended = engine(max_batch)([ahead, fork("call", 2, 1, 64), more, *OTHERS])
    assert ended[:3] == ["ahead", "more", "call"]


@ENGINES
@BATCHES
def test_a_call_of_low_priority_raises_nothing(
    engine: Callable[[int], Callable[[Sequence[Request]], list[str]]], max_batch: int
) -> None:
    ahead = fill("ahead", 1, 64, priority=7)
    ended = engine(max_batch)([ahead, *OTHERS, fork("call", 2, 1, 64, priority=9)])
    assert ended[-2:] == ["ahead", "call"]
