"""Random fork, append, drop and free sequences on real blocks and tensors, against naive copies."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from parrot.engine.torch.contexts import Context, ContextTree
from parrot.engine.torch.kv_cache import KvCache, KvShape
from parrot.ports.engine import ContextRef
from parrot.types.ids import ContextId

BLOCK = 4
NUM_BLOCKS = 24
SHAPE = KvShape(num_layers=2, num_kv_heads=2, head_dim=4, block_tokens=BLOCK, dtype=torch.float32)


class CacheMachine(RuleBasedStateMachine):
    """Each token gets a fresh number as its key; a context's copy is the numbers it must read back."""

    contexts: Bundle[int] = Bundle("contexts")

    def __init__(self) -> None:
        super().__init__()
        self.tree = ContextTree(NUM_BLOCKS, BLOCK)
        self.cache = KvCache(SHAPE, NUM_BLOCKS, torch.device("cpu"))
        self.copies: dict[int, list[int]] = {}
        self.cached: dict[int, list[int]] = {}
        self.num_contexts = 0
        self.num_tokens = 0

    def node(self, context_id: int) -> Context:
        node = self.tree.find(ContextId(context_id))
        assert node is not None
        return node

    @rule(target=contexts)
    def create(self) -> int:
        self.num_contexts += 1
        self.tree.open(ContextId(self.num_contexts), None)
        self.copies[self.num_contexts] = []
        return self.num_contexts

    @rule(target=contexts, parent=contexts, data=st.data())
    def fork(self, parent: int, data: st.DataObject) -> int:
        length = data.draw(st.integers(0, len(self.copies[parent])))
        self.num_contexts += 1
        before = self.tree.num_owned
        ref = ContextRef(context_id=ContextId(parent), num_tokens=length)
        self.tree.open(ContextId(self.num_contexts), ref)
        assert self.tree.num_owned == before
        self.copies[self.num_contexts] = self.copies[parent][:length]
        return self.num_contexts

    @rule(context=contexts, count=st.integers(1, 11))
    def append(self, context: int, count: int) -> None:
        node = self.node(context)
        length = len(node.tokens) + count
        while not self.tree.reserve(node, length):
            if not self.tree.evict_one():
                return
        numbers = list(range(self.num_tokens, self.num_tokens + count))
        self.num_tokens += count
        node.tokens += numbers
        slots = [s for first, n in self.tree.slots(node, length) for s in range(first, first + n)]
        written = torch.tensor(numbers, dtype=torch.float32)[:, None, None].expand(count, 2, 4)
        for layer in range(2):
            self.cache.write(layer, torch.tensor(slots[-count:]), written + layer, -written)
        node.num_computed = node.num_kept = length
        self.copies[context] += numbers

    @rule(context=consumes(contexts), retain=st.booleans())
    def release(self, context: int, retain: bool) -> None:
        self.tree.release(self.node(context), retain=retain)
        copy = self.copies.pop(context)
        if retain:
            self.cached[context] = copy
        for evicted in self.tree.take_evicted():
            del self.cached[evicted]

    @rule(target=contexts, data=st.data())
    def revive(self, data: st.DataObject) -> int | MultipleResults[int]:
        for evicted in self.tree.take_evicted():
            del self.cached[evicted]
        if not self.cached:
            return multiple()
        context = data.draw(st.sampled_from(sorted(self.cached)))
        self.tree.open(ContextId(context), None)
        self.copies[context] = self.cached.pop(context)
        return context

    @invariant()
    def contents_equal_the_copies(self) -> None:
        for context, copy in self.copies.items():
            node = self.node(context)
            runs = [run for n, count in node.lineage() for run in self.tree.slots(n, count)]
            runs += self.tree.slots(node, len(node.tokens))
            for layer in range(2):
                pieces = [self.cache.read(layer, run) for run in runs]
                keys = [k for piece, _ in pieces for k in piece[1, :, 3].tolist()]
                values = [v for _, piece in pieces for v in piece[0, :, 0].tolist()]
                assert keys == [number + layer for number in copy]
                assert values == [-number for number in copy]

    @invariant()
    def every_block_is_owned_cached_or_free(self) -> None:
        tree = self.tree
        assert tree.num_owned + tree.num_cached + tree.num_free == NUM_BLOCKS
        taken = [b for node in tree._nodes for first, n in node.runs for b in range(first, first + n)]
        free = [b for first, n in tree.pool.free_runs() for b in range(first, first + n)]
        assert sorted(taken + free) == list(range(NUM_BLOCKS))
        assert all(n.num_blocks == -(-len(n.tokens) // BLOCK) for n in tree._nodes if n.num_users)
        if not self.copies:
            assert tree.num_owned == 0


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCache = CacheMachine.TestCase
