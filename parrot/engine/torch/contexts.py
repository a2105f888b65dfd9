"""The tree of contexts: who forked from whom, which tokens each holds, and which blocks it owns.

    root     ████ ████ ██··            own tokens 0–9    3 blocks of 4
    child         ╰──── ███·           forks at 8: sees the root's first 8 tokens, owns 8–10   1 block
    child               ╰── ████ █···  forks at 10: sees all of the root, owns 10–14           2 blocks

A node owns whole blocks that begin with its own first token, so N forks of one prefix hold
ceil(prefix / block) + N · ceil(suffix / block) blocks, wherever they fork, and a fork copies nothing.

A node is **in use** while it, or anything that forked from it, is live. A node that is not in use stays as
cache when it, or something below it, was freed with `retain`; cache is evicted leaf by leaf, the least
recently used first. Blocks in use can be dropped as well (preemption): the tokens stay known, and the KV is
computed again when a request needs it.
"""

import heapq
from collections.abc import Iterator
from typing import Literal, TypeAlias

from parrot.engine.torch.block_pool import BlockPool, Run, slots_of
from parrot.errors import EngineError, InvalidError
from parrot.ports.engine import ContextRef
from parrot.types.ids import ContextId

ContextState = Literal["live", "cached", "freed"]

SPARE_ENTRIES = 64
"""Outdated entries of the eviction order that are kept, beside as many as there are contexts."""


class Context:
    """One node. Compared by identity; changed by `ContextTree` only, but for `num_computed`."""

    __slots__ = (
        "children",
        "context_id",
        "last_used",
        "num_blocks",
        "num_computed",
        "num_kept",
        "num_users",
        "open_tail",
        "parent",
        "runs",
        "start",
        "state",
        "tokens",
        "value",
    )

    def __init__(self, context_id: ContextId, parent: "Context | None", start: int) -> None:
        self.context_id = context_id
        self.parent = parent
        self.start = start
        """Tokens it sees of its ancestors."""
        self.tokens: list[int] = []
        """Its own tokens, computed or not."""
        self.num_computed = 0
        """Own tokens whose KV is in the cache."""
        self.num_kept = 0
        """Own tokens that stay when the request under way is stopped."""
        self.open_tail = False
        """Its last token was generated and has not been computed."""
        self.runs: list[Run] = []
        self.num_blocks = 0
        self.children: set[Context] = set()
        self.state: ContextState = "live"
        self.num_users = 0
        """1 if it is live, and 1 for each child that is in use."""
        self.last_used = 0
        self.value = 0
        """What it is worth as cache; what is worth least is evicted first."""

    @property
    def num_tokens(self) -> int:
        """Its length, ancestors included."""
        return self.start + len(self.tokens)

    def lineage(self) -> list[tuple["Context", int]]:
        """Its ancestors from the root on, each with how many of its own tokens are seen here."""
        seen: list[tuple[Context, int]] = []
        node = self
        while node.parent is not None:
            seen.append((node.parent, node.start - node.parent.start))
            node = node.parent
        seen.reverse()
        return seen


Evictable: TypeAlias = tuple[int, int, ContextId, Context]
"""Value, when it was last used, number and context: what comes first is evicted first."""


class ContextTree:
    """All contexts of an engine over one block pool. Not thread-safe."""

    def __init__(self, num_blocks: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.pool = BlockPool(num_blocks)
        self.num_owned = 0
        """Blocks of nodes in use."""
        self.num_cached = 0
        """Blocks of nodes that are not; owned + cached + free = all, always."""
        self.num_evictions = 0
        self._by_id: dict[ContextId, Context] = {}
        self._nodes: set[Context] = set()
        self._evictable: list[Evictable] = []
        self._evicted: list[ContextId] = []
        self._clock = 0
        self._num_live = 0

    @property
    def num_free(self) -> int:
        """Blocks that hold nothing."""
        return self.pool.num_free

    @property
    def num_live(self) -> int:
        """Contexts that have not been freed."""
        return self._num_live

    def find(self, context_id: ContextId) -> Context | None:
        """The live or cached context of that number."""
        return self._by_id.get(context_id)

    def nodes_in_use(self) -> Iterator[Context]:
        """Every node that something live needs."""
        return (node for node in self._nodes if node.num_users)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` own tokens of one node."""
        return -(-num_tokens // self.block_tokens)

    def open(self, context_id: ContextId, parent: ContextRef | None) -> Context:
        """The context of that number: made when it does not exist, live again when it was cache.

        `parent` is heeded for a new one only. It may be shorter than the fork point as yet, if it is live.

        Raises:
            EngineError: `context_gone`; the parent does not exist, or will never be that long.
            InvalidError: the fork stands before the parent's first token.
        """
        existing = self._by_id.get(context_id)
        if existing is not None:
            if existing.state != "live":
                existing.state = "live"
                self._use(existing)
            self._touch(existing)
            return existing
        origin = None if parent is None else self._fork_point(parent)
        node = Context(context_id, origin, 0 if parent is None else parent.num_tokens)
        if origin is not None:
            origin.children.add(node)
        self._by_id[context_id] = node
        self._nodes.add(node)
        self._use(node)
        self._touch(node)
        return node

    def release(self, node: Context, *, retain: bool) -> None:
        """Give up a live or cached context; with `retain` it becomes cache."""
        was_live = node.state == "live"
        if was_live:
            self._touch(node)
        node.state = "cached" if retain else "freed"
        if not retain:
            del self._by_id[node.context_id]
        if was_live:
            self._unuse(node)
        elif not node.num_users:
            self._settle(node)

    def reserve(self, node: Context, num_tokens: int) -> bool:
        """Make room for the node's first `num_tokens` own tokens; False, and nothing done, if the free
        blocks do not suffice.
        """
        missing = self.blocks_for(num_tokens) - node.num_blocks
        if missing <= 0:
            return True
        if missing > self.pool.num_free:
            return False
        after = node.runs[-1][0] + node.runs[-1][1] if node.runs else None
        for first, count in self.pool.take(missing, after=after):
            if node.runs and sum(node.runs[-1]) == first:
                node.runs[-1] = (node.runs[-1][0], node.runs[-1][1] + count)
            else:
                node.runs.append((first, count))
        self._count(node, missing)
        return True

    def shrink(self, node: Context, num_tokens: int) -> None:
        """Keep KV of at most the node's first `num_tokens` own tokens; the tokens stay known."""
        node.num_computed = min(node.num_computed, num_tokens)
        excess = node.num_blocks - self.blocks_for(num_tokens)
        if excess <= 0:
            return
        self._count(node, -excess)
        while excess:
            first, count = node.runs.pop()
            cut = min(excess, count)
            self.pool.give([(first + count - cut, cut)])
            excess -= cut
            if count > cut:
                node.runs.append((first, count - cut))

    def forget_uncomputed(self, node: Context) -> None:
        """Cut the node's tokens to those that stay, and give back the room beyond what is computed."""
        del node.tokens[node.num_kept :]
        self.shrink(node, node.num_computed)

    def slots(self, node: Context, num_tokens: int) -> tuple[Run, ...]:
        """Where the KV of the node's first `num_tokens` own tokens lies."""
        return slots_of(node.runs, num_tokens, self.block_tokens)

    def evict_one(self) -> bool:
        """Give up the leaf of the cache that is worth least, of equals the least recently used; False when
        there is no cache.
        """
        while self._evictable:
            entry = heapq.heappop(self._evictable)
            if self._is_current(entry):
                node = entry[3]
                parent = self._detach(node)
                if parent is not None:
                    self._settle(parent)
                return True
        return False

    def take_evicted(self) -> tuple[ContextId, ...]:
        """The retained contexts that went since the last time this was asked."""
        evicted, self._evicted = tuple(self._evicted), []
        return evicted

    def _fork_point(self, ref: ContextRef) -> Context | None:
        """The node that owns the token before the fork; None for a fork at 0."""
        if ref.num_tokens < 0:
            raise InvalidError("a fork stands before its parent's first token", param="parent.num_tokens")
        node = self._by_id.get(ref.context_id)
        if node is None:
            raise EngineError(f"context {ref.context_id} does not exist", code="context_gone")
        if node.state != "live" and node.num_tokens < ref.num_tokens:
            raise EngineError(
                f"context {ref.context_id} was given up at {node.num_tokens} tokens, before {ref.num_tokens}",
                code="context_gone",
            )
        self._touch(node)
        origin: Context | None = node
        while origin is not None and ref.num_tokens <= origin.start:
            origin = origin.parent
        return origin

    def _touch(self, node: Context) -> None:
        self._clock += 1
        node.last_used = self._clock

    def _count(self, node: Context, change: int) -> None:
        node.num_blocks += change
        if node.num_users:
            self.num_owned += change
        else:
            self.num_cached += change

    def _use(self, node: Context) -> None:
        self._num_live += 1
        at: Context | None = node
        while at is not None:
            at.num_users += 1
            if at.num_users > 1:
                return
            self.num_owned += at.num_blocks
            self.num_cached -= at.num_blocks
            at = at.parent

    def _unuse(self, node: Context) -> None:
        self._num_live -= 1
        at: Context | None = node
        while at is not None:
            at.num_users -= 1
            if at.num_users:
                return
            self.num_owned -= at.num_blocks
            self.num_cached += at.num_blocks
            parent = at.parent
            self._settle(at)
            at = parent

    def _settle(self, node: Context) -> None:
        """Decide what becomes of a node that is no longer in use, and then of its ancestors.

        Cache whose blocks were dropped is worth nothing and goes at once.
        """
        at: Context | None = node
        while at is not None and not at.num_users and not at.children:
            if at.state == "cached" and at.num_blocks:
                self._offer(at)
                return
            at = self._detach(at)

    def set_value(self, context_id: ContextId, value: int) -> None:
        """Say what a context is worth as cache; an unknown one is ignored."""
        node = self._by_id.get(context_id)
        if node is not None and node.value != value:
            node.value = value
            if node.state == "cached" and not node.num_users and not node.children:
                self._offer(node)

    def _offer(self, node: Context) -> None:
        heapq.heappush(self._evictable, (node.value, node.last_used, node.context_id, node))
        if len(self._evictable) > 2 * len(self._by_id) + SPARE_ENTRIES:
            current = filter(self._is_current, self._evictable)
            self._evictable = list({entry[3]: entry for entry in current}.values())
            heapq.heapify(self._evictable)

    def _is_current(self, entry: Evictable) -> bool:
        """Whether an entry of the eviction order says how things are; one that does not is passed over."""
        value, last_used, _, node = entry
        is_cache = node in self._nodes and not node.num_users and not node.children
        return is_cache and (node.value, node.last_used) == (value, last_used)

    def _detach(self, node: Context) -> Context | None:
        """Take out a leaf that is not in use; returns its parent."""
        self.shrink(node, 0)
        self._nodes.remove(node)
        if node.state == "cached":
            del self._by_id[node.context_id]
            self._evicted.append(node.context_id)
            self.num_evictions += 1
        parent, node.parent = node.parent, None
        if parent is not None:
            parent.children.remove(node)
        return parent
