"""The tree of contexts and the KV blocks they hold, without any tensor.

A node owns whole blocks, and they start at the node's own first token:

    node 1   ██████████████████░░   20 tokens, blocks of 8 → 3 blocks
    node 2     └ at 12  ██████░░    6 tokens of its own    → 1 block
    node 3     └ at 20  ███████████░░░░░  11 of its own    → 2 blocks

So N forks of one prefix hold ceil(prefix / B) + N · ceil(suffix / B) blocks, a fork costs nothing, and it may
stand at any token of its parent (block tables as in vLLM, Kwon et al. 2023, share whole blocks only).

A node is **in use** when its name is held or a node below it is in use; its blocks count as owned. Freed
with `retain` it is cache: evicted, leaves first and least recently used first, when memory is short. Freed
without, it lingers for as long as anything stands below it. Nodes keep their token ids, so that the KV of a
node can be dropped and computed again (preemption by recompute).
"""

import heapq
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from msgspec import Struct, field

from parrot.types.ids import ContextId

TokenArray: TypeAlias = "array[int]"
"""Token ids, four bytes each."""


SPARE_ENTRIES = 64
"""Outdated entries of the eviction order that are kept, beside as many as there are contexts."""


class Context(Struct, eq=False, kw_only=True):
    """One node. Only `ContextTree` changes it."""

    context_id: ContextId
    parent: "Context | None"
    start: int
    """Tokens of its ancestors that it sees; its own first token has this position."""
    token_ids: TokenArray = field(default_factory=lambda: array("I"))
    """Its own tokens, where their values matter."""
    num_own: int = 0
    """How many these are."""
    num_computed: int = 0
    """Own tokens whose KV is in the pool; fewer than `token_ids` after a drop."""
    num_blocks: int = 0
    held: bool = True
    """Its name is in use."""
    retained: bool = False
    """It is cache under its name."""
    num_users: int = 1
    """Itself when held, and each child that is in use."""
    last_used: int = 0
    """Tick of the tree at which it was last in use."""
    value: int = 0
    """What it is worth as cache; what is worth least is evicted first."""
    children: dict["Context", None] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Its length in tokens, ancestors included."""
        return self.start + self.num_own

    @property
    def reachable(self) -> bool:
        """Whether its parent is as long as it needs; a fork ahead of its parent is not reachable yet."""
        return self.parent is None or self.parent.length >= self.start

    def lineage(self) -> list["Context"]:
        """The nodes from the root down to this one."""
        nodes: list[Context] = []
        node: Context | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        nodes.reverse()
        return nodes

    def prompt(self) -> Iterator[TokenArray]:
        """All its tokens, ancestors' first, piece by piece."""
        lineage = self.lineage()
        for node, child in pairwise(lineage):
            yield node.token_ids[: child.start - node.start]
        yield self.token_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """KV that a context needs and that was dropped: the node's own tokens `num_computed … until`."""

    context: Context
    until: int


class ContextTree:
    """All contexts of one engine, and where its blocks are.

    At all times `num_owned + num_cached + num_free == num_blocks`; with no name held, `num_owned == 0`.
    """

    def __init__(self, *, num_blocks: int, block_tokens: int) -> None:
        if num_blocks < 1 or block_tokens < 1:
            raise ValueError("a pool has at least one block of at least one token")
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self.num_owned = 0
        self.num_cached = 0
        self.num_free = num_blocks
        self.num_held = 0
        self._names: dict[ContextId, Context] = {}
        self._evictable: list[tuple[int, int, int, Context]] = []
        self._evicted: list[ContextId] = []
        self._tick = 0

    @property
    def num_available(self) -> int:
        """Blocks that can be had without taking any from a context in use: all cache can be evicted."""
        return self.num_free + self.num_cached

    def find(self, context_id: ContextId) -> Context | None:
        """The context of that name, held or retained."""
        return self._names.get(context_id)

    def contexts(self) -> Iterable[Context]:
        """Every node, those that linger without a name included, in no order that matters."""
        seen: dict[Context, None] = {}
        for named in self._names.values():
            node: Context | None = named
            while node is not None and node not in seen:
                seen[node] = None
                node = node.parent
        return seen

    def create(self, context_id: ContextId, *, parent: Context | None, start: int) -> Context:
        """A new held context that sees its parent's first `start` tokens; copies nothing.

        It hangs below the ancestor that has the last of these tokens, which need not be the parent.
        `start` may lie beyond the parent's present length; nothing can be appended before it is reached.
        """
        if context_id in self._names:
            raise ValueError(f"context {context_id} exists")
        while parent is not None and start <= parent.start:
            parent = parent.parent
        if start < 0 or (parent is None and start):
            raise ValueError(f"a fork at token {start} of nothing")
        node = Context(context_id=context_id, parent=parent, start=start)
        self._names[context_id] = node
        self.num_held += 1
        if parent is not None:
            parent.children[node] = None
            self._use(parent)
        return node

    def hold(self, context: Context) -> None:
        """Take a retained context into use again under its name."""
        if not context.held:
            context.held, context.retained = True, False
            self.num_held += 1
            self._use(context)

    def append(self, context: Context, token_ids: Sequence[int]) -> bool:
        """Add tokens with their KV; evicts cache when blocks are short. False, and no change, when that
        is not enough.
        """
        if not self.extend(context, len(token_ids)):
            return False
        context.token_ids.extend(token_ids)
        return True

    def extend(self, context: Context, num_tokens: int) -> bool:
        """`append`, of tokens whose values do not matter in any context of the tree."""
        assert context.reachable, "append to a fork that is ahead of its parent"
        assert context.num_computed == context.num_own, "append before what was dropped is computed"
        if not self._grow(context, context.num_own + num_tokens):
            return False
        context.num_own += num_tokens
        return True

    def recompute(self, context: Context, until: int) -> bool:
        """Give own tokens up to `until` their KV again. False, and no change, when blocks are short."""
        assert context.num_computed <= until <= context.num_own, "only known tokens are recomputed"
        return self._grow(context, until)

    def drop(self, context: Context, *, keep: int = 0) -> int:
        """Give up a context's KV, but for its first `keep` own tokens and what nodes below stand on.

        The tokens stay known. Returns the number of blocks that became free.
        """
        keep = min(context.num_computed, max(keep, self._floor(context)))
        regained = context.num_blocks - self._blocks(keep)
        context.num_computed = keep
        self._give_back(context, regained)
        return regained

    def missing(self, context: Context) -> list[Missing]:
        """What must be recomputed before `context` can be appended to, root first."""
        gaps: list[Missing] = []
        node: Context | None = context
        need = context.num_own
        while node is not None:
            if node.num_computed < need:
                gaps.append(Missing(context=node, until=need))
            need = node.start - (node.parent.start if node.parent is not None else 0)
            node = node.parent
        gaps.reverse()
        return gaps

    def is_whole(self, context: Context) -> bool:
        """Whether nothing is missing."""
        if context.num_computed < context.num_own:
            return False
        node = context
        while (parent := node.parent) is not None:
            if parent.num_computed < node.start - parent.start:
                return False
            node = parent
        return True

    def blocks_to_append(self, context: Context, num_tokens: int) -> int:
        """Further blocks that it takes to append so many tokens, recomputation included."""
        blocks = 0
        if not self.is_whole(context):
            for gap in self.missing(context):
                blocks += max(0, self._blocks(gap.until) - gap.context.num_blocks)
        own = context.num_own
        already = max(context.num_blocks, self._blocks(own))
        return blocks + max(0, self._blocks(own + num_tokens) - already)

    def blocks_alone(self, context: Context, num_tokens: int) -> int:
        """Blocks that the context would hold with so many tokens more, were it alone in the pool."""
        lineage = context.lineage()
        spans = [child.start - node.start for node, child in pairwise(lineage)]
        spans.append(context.num_own + num_tokens)
        return sum(map(self._blocks, spans))

    def release(self, context: Context, *, retain: bool) -> None:
        """Give up a name; with `retain` the context becomes cache."""
        if context.held:
            context.held = False
            self.num_held -= 1
            context.retained = retain
            self._unuse(context)
        else:
            context.retained = retain
        if not retain:
            self._names.pop(context.context_id, None)
            self._collect(context)

    def set_value(self, context_id: ContextId, value: int) -> None:
        """Say what a context is worth as cache; an unknown one is ignored."""
        context = self._names.get(context_id)
        if context is not None and context.value != value:
            context.value = value
            self._offer(context)

    def evict(self, num_blocks: int) -> None:
        """Evict cache until so many blocks are free or no cache is left: what is worth least first, of equals
        what was used least recently.
        """
        while self.num_free < num_blocks and self._evictable:
            value, stamp, _, context = heapq.heappop(self._evictable)
            if self._is_evictable(context) and (context.value, context.last_used) == (value, stamp):
                self._evicted.append(context.context_id)
                self.release(context, retain=False)

    def take_evicted(self) -> tuple[ContextId, ...]:
        """Names evicted since the last question, oldest first."""
        if not self._evicted:
            return ()
        evicted, self._evicted = tuple(self._evicted), []
        return evicted

    def audit(self) -> list[str]:
        """Count everything anew; each line names a number that is wrong. For idle engines and tests."""
        owned = cached = 0
        faults: list[str] = []
        for node in self.contexts():
            users = int(node.held) + sum(child.num_users > 0 for child in node.children)
            if users != node.num_users:
                faults.append(f"context {node.context_id} has {users} users, counted {node.num_users}")
            if node.num_blocks != self._blocks(node.num_computed):
                faults.append(
                    f"context {node.context_id}: {node.num_computed} tokens, {node.num_blocks} blocks"
                )
            owned += node.num_blocks if users else 0
            cached += 0 if users else node.num_blocks
        for name, found, counted in (
            ("owned", owned, self.num_owned),
            ("cached", cached, self.num_cached),
            ("free", self.num_blocks - owned - cached, self.num_free),
        ):
            if found != counted:
                faults.append(f"{found} blocks are {name}, counted {counted}")
        if self.num_held == 0 and owned:
            faults.append(f"{owned} blocks are owned and no context is in use")
        return faults

    def _blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_tokens)

    def _grow(self, context: Context, num_computed: int) -> bool:
        wanted = self._blocks(num_computed) - context.num_blocks
        if wanted > self.num_available:
            return False
        if wanted > self.num_free:
            self.evict(wanted)
        assert context.num_users, "only a context in use grows"
        self._tick += 1
        context.last_used = self._tick
        self.num_free -= wanted
        self.num_owned += wanted
        context.num_blocks += wanted
        context.num_computed = num_computed
        return True

    def _give_back(self, context: Context, num_blocks: int) -> None:
        context.num_blocks -= num_blocks
        self.num_free += num_blocks
        if context.num_users:
            self.num_owned -= num_blocks
        else:
            self.num_cached -= num_blocks

    def _floor(self, context: Context) -> int:
        """Own tokens whose KV nodes below need now."""
        needs = (child.start - context.start for child in context.children if _bears_kv(child))
        return max(needs, default=0)

    def _use(self, context: Context) -> None:
        node: Context | None = context
        while node is not None:
            node.num_users += 1
            if node.num_users > 1:
                return
            self.num_cached -= node.num_blocks
            self.num_owned += node.num_blocks
            node = node.parent

    def _unuse(self, context: Context) -> None:
        self._tick += 1
        node: Context | None = context
        while node is not None:
            node.num_users -= 1
            node.last_used = self._tick
            if node.num_users:
                return
            self.num_owned -= node.num_blocks
            self.num_cached += node.num_blocks
            self._offer(node)
            node = node.parent

    def _is_evictable(self, context: Context) -> bool:
        return context.retained and not context.num_users and not context.children

    def _offer(self, context: Context) -> None:
        if self._is_evictable(context):
            entry = (context.value, context.last_used, context.context_id, context)
            heapq.heappush(self._evictable, entry)
            if len(self._evictable) > 2 * len(self._names) + SPARE_ENTRIES:
                self._forget_outdated()

    def _forget_outdated(self) -> None:
        """Contexts that are gone stay in the heap until they come up, which those of high value never do."""
        current = (
            entry
            for entry in self._evictable
            if self._is_evictable(entry[3]) and (entry[3].value, entry[3].last_used) == entry[:2]
        )
        self._evictable = list({entry[2]: entry for entry in current}.values())
        heapq.heapify(self._evictable)

    def _collect(self, context: Context) -> None:
        """Remove a node that nothing names and nothing stands on, and its ancestors that are so then."""
        node: Context | None = context
        while node is not None and not (node.held or node.retained or node.children):
            self._give_back(node, node.num_blocks)
            node.num_computed = 0
            parent = node.parent
            if parent is not None:
                del parent.children[node]
                self._offer(parent)
            node = parent


def _bears_kv(context: Context) -> bool:
    stack = [context]
    while stack:
        node = stack.pop()
        if node.num_blocks:
            return True
        stack.extend(node.children)
    return False
