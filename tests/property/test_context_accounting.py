"""The context tree against a model that keeps nothing but who holds which tokens (invariants C1 to C7)."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from parrot.engine.accounting import SPARE_ENTRIES, Context, ContextTree
from parrot.types.ids import ContextId


@dataclass(kw_only=True, eq=False)
class Node:
    """A context as the model knows it: its whole text, and how much of it is its own."""

    name: ContextId
    parent: "Node | None"
    text: list[int]
    start: int
    held: bool = True
    retained: bool = False
    children: "list[Node]" = field(default_factory=list)

    @property
    def in_use(self) -> bool:
        return self.held or any(child.in_use for child in self.children)

    @property
    def num_own(self) -> int:
        return len(self.text) - self.start


class ContextAccounting(RuleBasedStateMachine):
    """Random create, fork, append, release and eviction."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Node] = []
        self.count = 0

    @initialize(num_blocks=st.integers(6, 60), block_tokens=st.sampled_from([1, 3, 8]))
    def begin(self, num_blocks: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.tree = ContextTree(num_blocks=num_blocks, block_tokens=block_tokens)

    def nodes(self) -> list[Node]:
        found, stack = [], list(self.roots)
        while stack:
            node = stack.pop()
            found.append(node)
            stack += node.children
        return found

    def named(self) -> list[Node]:
        return [node for node in self.nodes() if node.held or node.retained]

    def pick(self, data: st.DataObject, *, held: bool) -> Node:
        nodes = sorted((n for n in self.named() if n.held or not held), key=lambda node: node.name)
        return data.draw(st.sampled_from(nodes))

    def real(self, node: Node) -> Context:
        context = self.tree.find(node.name)
        assert context is not None
        return context

    @rule(data=st.data(), fork=st.integers(0, 3), num_tokens=st.integers(0, 12))
    def create(self, data: st.DataObject, fork: int, num_tokens: int) -> None:
        """C3: a fork at any length copies nothing and takes no block."""
        self.count += 1
        name = ContextId(self.count)
        free = self.tree.num_free
        node = Node(name=name, parent=None, text=[], start=0)
        if fork and self.named():
            parent = self.pick(data, held=False)
            start = data.draw(st.integers(0, len(parent.text)))
            self.tree.create(name, parent=self.real(parent), start=start)
            node.text, node.start = parent.text[:start], start
            owner: Node | None = parent
            while owner is not None and start <= owner.start:
                owner = owner.parent
            node.parent = owner
        else:
            self.tree.create(name, parent=None, start=0)
        (node.parent.children if node.parent else self.roots).append(node)
        assert self.tree.num_free == free
        self.append_to(node, num_tokens)

    @precondition(lambda self: any(node.held for node in self.nodes()))
    @rule(data=st.data(), num_tokens=st.integers(0, 12))
    def append(self, data: st.DataObject, num_tokens: int) -> None:
        self.append_to(self.pick(data, held=True), num_tokens)

    def append_to(self, node: Node, num_tokens: int) -> None:
        """C5: what does not fit changes nothing in use; what fits may cost cache only."""
        context = self.real(node)
        for gap in self.tree.missing(context):
            if not self.tree.recompute(gap.context, gap.until):
                return
        tokens = [self.count * 1000 + i for i in range(num_tokens)]
        owned, wanted = self.tree.num_owned, self.tree.blocks_to_append(context, num_tokens)
        fits = wanted <= self.tree.num_available
        assert self.tree.append(context, tokens) == fits
        assert self.tree.num_owned == owned + wanted * fits
        if fits:
            node.text += tokens

    @precondition(lambda self: self.named())
    @rule(data=st.data(), retain=st.booleans())
    def release(self, data: st.DataObject, retain: bool) -> None:
        node = self.pick(data, held=False)
        self.tree.release(self.real(node), retain=retain)
        node.held, node.retained = False, retain
        self.prune()

    @precondition(lambda self: any(node.retained for node in self.nodes()))
    @rule(data=st.data())
    def hold_again(self, data: st.DataObject) -> None:
        nodes = sorted((n for n in self.nodes() if n.retained), key=lambda node: node.name)
        node = data.draw(st.sampled_from(nodes))
        self.tree.hold(self.real(node))
        node.held, node.retained = True, False

    @rule(num_blocks=st.integers(0, 60))
    def evict(self, num_blocks: int) -> None:
        """C4: eviction takes cache, all of it if need be, and never what something in use stands on."""
        owned, available = self.tree.num_owned, self.tree.num_available
        self.tree.evict(num_blocks)
        assert self.tree.num_owned == owned
        assert self.tree.num_free >= min(num_blocks, available)

    @precondition(lambda self: any(node.in_use for node in self.nodes()))
    @rule(data=st.data(), keep=st.integers(0, 20))
    def drop(self, data: st.DataObject, keep: int) -> None:
        """C6: a drop gives up KV, never tokens, and never KV that nodes below it stand on."""
        context = self.real(self.pick(data, held=False))
        free = self.tree.num_free
        assert self.tree.drop(context, keep=keep) == self.tree.num_free - free
        for child in context.children:
            assert not child.num_blocks or context.num_computed >= child.start - context.start

    def prune(self) -> None:
        """Nodes that nothing names and nothing stands on are gone."""
        for node in self.nodes():
            gone: Node | None = node
            while gone is not None and not (gone.held or gone.retained or gone.children):
                siblings = gone.parent.children if gone.parent else self.roots
                if gone in siblings:
                    siblings.remove(gone)
                gone = gone.parent

    def follow_evictions(self) -> None:
        """C4: an evicted context was cache on which nothing in use stood."""
        for name in self.tree.take_evicted():
            node = next(node for node in self.nodes() if node.name == name)
            assert node.retained
            assert not node.children
            node.retained = False
            self.prune()

    @invariant()
    def accounts_agree(self) -> None:
        """C1, C2, C3, C7: the numbers add up, and a node owns whole blocks from its own first token."""
        if not hasattr(self, "tree"):
            return
        self.follow_evictions()
        tree = self.tree
        assert tree.num_owned + tree.num_cached + tree.num_free == tree.num_blocks
        assert min(tree.num_owned, tree.num_cached, tree.num_free) >= 0
        assert tree.audit() == []
        assert tree.num_held or not tree.num_owned
        contexts = list(tree.contexts())
        assert len(contexts) == len(self.nodes())
        full = all(context.num_computed == len(context.token_ids) for context in contexts)
        if full:
            blocks = {node: -(-node.num_own // self.block_tokens) for node in self.nodes()}
            assert tree.num_owned == sum(n for node, n in blocks.items() if node.in_use)
            assert tree.num_cached == sum(n for node, n in blocks.items() if not node.in_use)
        for node in self.named():
            assert [token for piece in self.real(node).prompt() for token in piece] == node.text


ContextAccounting.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestContextAccounting = ContextAccounting.TestCase


def test_the_order_of_eviction_stays_as_small_as_what_can_be_evicted() -> None:
    tree = ContextTree(num_blocks=64, block_tokens=16)
    kept = tree.create(ContextId(0), parent=None, start=0)
    assert tree.append(kept, [1] * 16)
    tree.release(kept, retain=True)
    for number in range(1, 3000):
        # Worth more than what is cached, and so never first in the order.
        tree.set_value(kept.context_id, 10_000 + number)
        node = tree.create(ContextId(number), parent=None, start=0)
        assert tree.append(node, [2] * 16)
        tree.release(node, retain=True)
        tree.set_value(node.context_id, 20_000 + number)
        tree.release(node, retain=False)
    assert len(tree._evictable) <= 2 * 1 + SPARE_ENTRIES + 1
    tree.evict(64)
    assert tree.take_evicted() == (kept.context_id,)
    assert tree.audit() == []
