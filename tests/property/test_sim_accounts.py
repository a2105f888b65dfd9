"""Lazy accounts equal those that are kept step by step."""

from hypothesis import given
from hypothesis import strategies as st

from parrot.engine.accounting import Context, ContextTree
from parrot.sim.cost import DecodeSteps
from parrot.sim.kv_reading import KvReading
from parrot.sim.lazy_blocks import LazyBlocks
from parrot.types.ids import ContextId


@given(
    block_tokens=st.integers(1, 17),
    contexts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=12),
    later=st.integers(0, 50),
)
def test_lazy_blocks_are_the_blocks_of_each_context(
    block_tokens: int, contexts: list[tuple[int, int]], later: int
) -> None:
    lazy = LazyBlocks(block_tokens)
    for own, since in contexts:
        lazy.add(own_tokens=own, step=since)
    step = 40 + later
    expected = sum(-(-(own + step - since) // block_tokens) for own, since in contexts)
    assert lazy.count(step) == expected
    for own, since in contexts:
        lazy.remove(own_tokens=own, step=since)
    assert lazy.count(step) == 0


@given(
    forks=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 20)), min_size=1, max_size=8),
    decoding=st.sets(st.integers(0, 8), min_size=1),
    leaving=st.sets(st.integers(0, 8)),
    steps=st.integers(0, 5),
)
def test_kv_reading_counts_shared_tokens_once_and_for_each(
    forks: list[tuple[int, int]], decoding: set[int], leaving: set[int], steps: int
) -> None:
    tree = ContextTree(num_blocks=10_000, block_tokens=4)
    contexts = [tree.create(ContextId(0), parent=None, start=0)]
    tree.append(contexts[0], [1] * 20)
    for at, own in forks:
        parent = contexts[at % len(contexts)]
        child = tree.create(ContextId(len(contexts)), parent=parent, start=max(1, parent.length - 3))
        tree.append(child, [2] * own)
        contexts.append(child)
    readers = [context for index, context in enumerate(contexts) if index in decoding]
    reading = KvReading()
    for context in readers:
        reading.join(context)
    reading.grow(steps)
    for context in readers:
        tree.append(context, [3] * steps)
    stay = [context for index, context in enumerate(contexts) if index in decoding - leaving]
    for context in readers:
        if context not in stay:
            reading.leave(context, own_tokens=context.num_own)
    assert reading.num_context_tokens == sum(context.length for context in stay)
    assert reading.num_distinct_tokens == len(set().union(*(_tokens(context) for context in stay)))


def _tokens(context: Context) -> set[tuple[ContextId, int]]:
    """Every token that a context sees, by the node that owns it."""
    seen = {(context.context_id, index) for index in range(context.num_own)}
    node = context
    while node.parent is not None:
        seen |= {(node.parent.context_id, index) for index in range(node.start - node.parent.start)}
        node = node.parent
    return seen


rates = st.floats(0, 10)


@given(
    compute=rates,
    compute_growth=rates,
    read=rates,
    read_growth=rates,
    overhead=rates,
    count=st.integers(0, 40),
)
def test_a_sum_of_steps_is_the_sum_of_the_steps(
    compute: float, compute_growth: float, read: float, read_growth: float, overhead: float, count: int
) -> None:
    steps = DecodeSteps(
        compute_s=compute,
        compute_growth_s=compute_growth,
        read_s=read,
        read_growth_s=read_growth,
        overhead_s=overhead,
    )
    expected = sum(max(compute + i * compute_growth, read + i * read_growth) + overhead for i in range(count))
    assert abs(steps.total_s(count) - expected) < 1e-9 * (1 + expected)


@given(elapsed=st.floats(0, 100), most=st.integers(0, 50))
def test_steps_done_are_those_whose_time_is_over(elapsed: float, most: int) -> None:
    steps = DecodeSteps(compute_s=0.5, compute_growth_s=0.1, read_s=1.0, read_growth_s=0.01, overhead_s=0.2)
    done = steps.num_done(elapsed, most)
    assert 0 <= done <= most
    assert steps.total_s(done) <= elapsed + 1e-9
    assert done == most or steps.total_s(done + 1) > elapsed
