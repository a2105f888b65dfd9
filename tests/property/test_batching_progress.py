"""Whatever is asked of a batcher in a tiny pool, every request that can run ends, and nothing leaks."""

from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parrot.engine.accounting import ContextTree
from parrot.engine.batching import Batcher, Work
from parrot.errors import EngineError
from parrot.ports.engine import ContextRef, FillRequest, GenerateRequest
from parrot.types.ids import ContextId, RequestId
from parrot.types.sampling import Sampling


class Endless:
    """An output that goes on for as long as it may."""

    def advance(self, limit: int) -> tuple[tuple[int, ...], str, Literal["more", "stop"]]:
        return (7,) * limit, "x" * limit, "more"

    def finish(self) -> tuple[str, bool]:
        return "", True


MAX_STEPS = 3000


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_request_that_can_run_ends_and_nothing_leaks(data: st.DataObject) -> None:
    """C1, C2: also under preemption, drops, cancels and frees at any moment."""
    tree = ContextTree(
        num_blocks=data.draw(st.integers(2, 12)), block_tokens=data.draw(st.sampled_from([1, 4]))
    )
    begin: Callable[[Work], Endless] = lambda _: Endless()  # noqa: E731
    batcher = Batcher(
        tree,
        max_batch=data.draw(st.integers(1, 4)),
        step_tokens=data.draw(st.integers(1, 20)),
        tokens_per_step=data.draw(st.sampled_from([1, 5])),
        context_tokens=64,
        begin=begin,
    )
    works: list[Work] = []
    for turn in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["fill", "generate", "generate", "step", "cancel", "free"])):
            case "step":
                batcher.step()
            case "cancel" if works:
                batcher.cancel(data.draw(st.sampled_from(works)))
            case "free":
                context_ids = data.draw(st.lists(st.integers(1, 8), max_size=3))
                batcher.free(map(ContextId, context_ids), retain=data.draw(st.booleans()))
            case kind:
                parent = data.draw(st.none() | st.builds(_reference, st.integers(1, 8), st.integers(0, 30)))
                request = _request(
                    turn,
                    context=data.draw(st.integers(1, 8)),
                    num_tokens=data.draw(st.integers(0, 30)),
                    max_tokens=data.draw(st.integers(1, 20)) if kind == "generate" else 0,
                    parent=parent,
                    priority=data.draw(st.integers(0, 2)),
                )
                with suppress(EngineError):
                    works.append(batcher.submit(request))
        assert tree.audit() == []
    for _ in range(MAX_STEPS):
        if not batcher.can_step:
            break
        batcher.step()
        assert tree.audit() == []
    assert not batcher.can_step
    assert {work.stage for work in works} <= {"ended", "parked", "lined"}
    batcher.free(map(ContextId, range(1, 9)), retain=False)
    assert {work.stage for work in works} <= {"ended"}
    assert (tree.num_owned, tree.num_held, batcher.num_running, batcher.num_waiting) == (0, 0, 0, 0)
    assert tree.num_cached + tree.num_free == tree.num_blocks


@pytest.mark.parametrize("freed", [False, True], ids=["cancelled", "freed"])
def test_forks_that_went_away_while_they_waited_leave_no_trace(freed: bool) -> None:
    tree = ContextTree(num_blocks=8, block_tokens=4)
    batcher = Batcher(
        tree, max_batch=1, step_tokens=8, tokens_per_step=1, context_tokens=64, begin=lambda _: Endless()
    )
    batcher.submit(_request(0, context=1, num_tokens=0, max_tokens=0, parent=None, priority=0))
    batcher.step()
    for number in range(2, 200):
        fork = _request(
            number, context=number, num_tokens=1, max_tokens=0, parent=_reference(1, 4), priority=-1
        )
        work = batcher.submit(fork)
        if not freed:
            batcher.cancel(work)
        batcher.free([ContextId(number)], retain=False)
    assert not batcher._parked
    more = batcher.submit(_request(200, context=1, num_tokens=4, max_tokens=0, parent=None, priority=5))
    assert more.priority == 5


def _reference(context: int, num_tokens: int) -> ContextRef:
    return ContextRef(context_id=ContextId(context), num_tokens=num_tokens)


def _request(
    number: int, *, context: int, num_tokens: int, max_tokens: int, parent: ContextRef | None, priority: int
) -> FillRequest | GenerateRequest:
    request_id, context_id = RequestId(str(number)), ContextId(context)
    token_ids = tuple(range(num_tokens))
    if not max_tokens:
        return FillRequest(
            request_id=request_id,
            context_id=context_id,
            token_ids=token_ids,
            parent=parent,
            priority=priority,
        )
    return GenerateRequest(
        request_id=request_id,
        context_id=context_id,
        token_ids=token_ids,
        sampling=Sampling(max_tokens=max_tokens),
        parent=parent,
        priority=priority,
    )
