"""The stride batch keeps the rules of the batcher that goes step by step."""

from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from parrot.engine.accounting import ContextTree
from parrot.engine.batching import Batcher
from parrot.engine.batching import Work as StepWork
from parrot.ports.engine import ContextRef, FillRequest, GenerateRequest
from parrot.sim.batch import StrideBatch
from parrot.sim.cost import PRESETS, CostModel
from parrot.sim.decoding import Work
from parrot.types.ids import ContextId, RequestId
from parrot.types.sampling import Sampling

COST = PRESETS["a100-80g-13b"].cost()
FREE = CostModel(
    weight_bytes=1,
    kv_bytes=0,
    flops_per_token=0,
    flops_per_pair=0,
    bytes_per_s=1,
    flops_per_s=1,
    overhead_s=0,
)
"""Every step takes one second."""

Plan = tuple[int, int, int | None]
"""Prompt tokens, output tokens, and which earlier request's context it forks from, if any."""

plans = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 40), st.none() | st.integers(0, 5)), min_size=1, max_size=12
)


def requests(drawn: list[Plan]) -> list[GenerateRequest]:
    """One generation for each plan, each in a context of its own; forks stand within the parent's prompt."""
    made: list[GenerateRequest] = []
    lengths: list[int] = []
    for index, (prompt, output, fork) in enumerate(drawn):
        parent = None
        if fork is not None and index:
            at = fork % index
            parent = ContextRef(context_id=ContextId(at), num_tokens=min(7, lengths[at]))
        lengths.append(prompt + (parent.num_tokens if parent else 0))
        made.append(
            GenerateRequest(
                request_id=RequestId(str(index)),
                context_id=ContextId(index),
                token_ids=tuple(range(prompt)),
                parent=parent,
                sampling=Sampling(max_tokens=output, ignore_eos=True),
            )
        )
    return made


class Words:
    """An output that goes on until it is stopped."""

    def advance(self, limit: int) -> tuple[tuple[int, ...], str, Literal["more", "stop"]]:
        return (7,) * limit, "", "more"

    def finish(self) -> tuple[str, bool]:
        return "", True


def step_by_step(made: list[GenerateRequest], *, num_blocks: int, max_batch: int) -> dict[int, int]:
    """At which step each request ends."""
    tree = ContextTree(num_blocks=num_blocks, block_tokens=4)
    batcher = Batcher(
        tree,
        max_batch=max_batch,
        step_tokens=32,
        tokens_per_step=1,
        context_tokens=1000,
        begin=lambda _: Words(),
    )
    works: dict[StepWork, int] = {batcher.submit(request): i for i, request in enumerate(made)}
    ends: dict[int, int] = {}
    number = 0
    while batcher.can_step:
        number += 1
        step = batcher.step()
        assert not step.failed
        for work, chunk in step.chunks:
            if chunk.end is not None:
                ends[works[work]] = number
    return ends


def stride_batch(
    num_blocks: int, max_batch: int, *, cost: CostModel = FREE, chunked: bool = True
) -> StrideBatch:
    return StrideBatch(
        ContextTree(num_blocks=num_blocks, block_tokens=4),
        cost,
        max_batch=max_batch,
        step_tokens=32,
        chunked=chunked,
        context_tokens=1000,
    )


def run_to_end(batch: StrideBatch) -> list[tuple[float, Work]]:
    """Every request that ends, with the seconds until then."""
    ended: list[tuple[float, Work]] = []
    now_s = 0.0
    while (duration_s := batch.begin()) is not None:
        now_s += duration_s
        outcome = batch.end()
        assert not outcome.failed
        ended += [(now_s, work) for work in outcome.ended]
    batch.end()
    return ended


@given(drawn=plans, max_batch=st.integers(1, 6))
def test_strides_end_each_request_at_the_step_where_single_steps_do(
    drawn: list[Plan], max_batch: int
) -> None:
    made = requests(drawn)
    batch = stride_batch(10_000, max_batch)
    works = {batch.submit(request): i for i, request in enumerate(made)}
    ends = {works[work]: round(now_s) for now_s, work in run_to_end(batch)}
    assert ends == step_by_step(made, num_blocks=10_000, max_batch=max_batch)


@given(drawn=plans, num_blocks=st.integers(30, 80), chunked=st.booleans())
def test_every_request_ends_and_every_block_returns_when_memory_is_short(
    drawn: list[Plan], num_blocks: int, chunked: bool
) -> None:
    batch = stride_batch(num_blocks, 8, chunked=chunked, cost=COST)
    for request in requests(drawn):
        batch.submit(request)
    ended = run_to_end(batch)
    assert len(ended) == len(drawn)
    assert all(
        work.num_generated == plan[1]
        for work, plan in ((w, drawn[int(w.request.request_id)]) for _, w in ended)
    )
    assert batch.tree.audit() == []
    batch.free([ContextId(index) for index in range(len(drawn))], retain=False)
    assert (batch.tree.num_owned, batch.tree.num_free) == (0, num_blocks)


Action = tuple[int, int]


@settings(deadline=None)
@given(drawn=plans, cuts=st.lists(st.floats(0, 3), max_size=30), dropped=st.sets(st.integers(0, 11)))
def test_accounts_hold_through_cuts_cancellations_and_frees(
    drawn: list[Plan], cuts: list[float], dropped: set[int]
) -> None:
    batch = stride_batch(60, 4)
    made = requests(drawn)
    works: list[Work] = []
    for index, request in enumerate(made):
        parent = request.parent
        if parent is not None and batch.tree.find(parent.context_id) is None:
            continue
        works.append(batch.submit(request))
        duration_s = None if batch.in_stride else batch.begin()
        if index in dropped:
            batch.cancel(works[len(works) // 2])
        if duration_s is not None and cuts:
            shorter = batch.cut(min(duration_s, cuts[index % len(cuts)]))
            assert shorter is None or shorter <= duration_s
        if index % 2:
            batch.end()
            assert batch.tree.audit() == []
    if batch.in_stride:
        batch.end()
    run_to_end(batch)
    # A fork ahead of a parent whose request was cancelled waits until the parent is freed.
    assert all(work.stage in {"ended", "parked"} for work in works)
    batch.free([request.context_id for request in made], retain=True)
    assert batch.tree.audit() == []
    assert all(work.stage == "ended" for work in works)
    assert (batch.tree.num_owned, batch.num_running, batch.num_waiting) == (0, 0, 0)


@given(prompt=st.integers(1, 50), output=st.integers(2, 60), ahead=st.integers(1, 40))
def test_a_fork_ahead_of_a_decoding_parent_starts_when_the_parent_is_long_enough(
    prompt: int, output: int, ahead: int
) -> None:
    batch = stride_batch(1000, 4)
    parent = batch.submit(requests([(prompt, output, None)])[0])
    reached = min(ahead, output)
    fork = batch.submit(
        FillRequest(
            request_id=RequestId("fork"),
            context_id=ContextId(99),
            token_ids=(1, 2, 3),
            parent=ContextRef(context_id=ContextId(0), num_tokens=prompt + reached),
        )
    )
    ended = {work: round(now_s) for now_s, work in run_to_end(batch)}
    num_chunks = -(-prompt // 32)
    assert ended[parent] == num_chunks + output - 1
    assert ended[fork] == num_chunks + reached


def test_the_tree_counts_the_tokens_that_were_asked_for_and_keeps_none() -> None:
    batch = stride_batch(1000, 4)
    work = batch.submit(requests([(10, 5, None)])[0])
    run_to_end(batch)
    assert (work.context.num_own, len(work.context.token_ids)) == (15, 0)
