"""The torch engine's tree of contexts, where no model matters."""

from parrot.engine.torch.contexts import SPARE_ENTRIES, ContextTree
from parrot.types.ids import ContextId


def test_cache_that_is_used_again_and_again_leaves_no_trace() -> None:
    tree = ContextTree(4, 4)
    for _ in range(1000):
        context = tree.open(ContextId(1), None)
        tree.reserve(context, 5)
        tree.release(context, retain=True)
    assert len(tree._evictable) <= 2 + SPARE_ENTRIES
    assert tree.evict_one()
    assert tree.take_evicted() == (1,)
    assert not tree.evict_one()
