"""How much KV decoding requests read: with shared tokens counted for each reader, and counted once.

A node of the context tree is read as far as the deepest reader below it sees it, or whole, by its own
request:

    node 1   ████████████████░░░░    two decoding forks, at 12 and at 16 → 16 distinct tokens, 28 read
"""

from parrot.engine.accounting import Context


class KvReading:
    """Sums over the contexts of requests that decode, kept as they come, grow and go."""

    def __init__(self) -> None:
        self.num_context_tokens = 0
        """Lengths of all of them together."""
        self.num_distinct_tokens = 0
        """The same with every token counted once."""
        self._seen: dict[Context, dict[int, int]] = {}
        self._own: dict[Context, None] = {}

    def join(self, context: Context) -> None:
        """The context's request begins to decode."""
        own = context.num_own
        self.num_context_tokens += context.start + own
        self.num_distinct_tokens += own - self._deepest(context)
        self._own[context] = None
        if context.parent is not None:
            self._see_lineage(context, 1)

    def leave(self, context: Context, *, own_tokens: int) -> None:
        """The context's request, which has `own_tokens` tokens of its own by now, decodes no more."""
        self.num_context_tokens -= context.start + own_tokens
        del self._own[context]
        self.num_distinct_tokens -= own_tokens - self._deepest(context)
        if context.parent is not None:
            self._see_lineage(context, -1)

    def grow(self, num_steps: int) -> None:
        """Every context grew by a token in each of `num_steps` steps."""
        grown = num_steps * len(self._own)
        self.num_context_tokens += grown
        self.num_distinct_tokens += grown

    def _deepest(self, context: Context) -> int:
        seen = self._seen.get(context)
        return max(seen) if seen else 0

    def _see_lineage(self, context: Context, by: int) -> None:
        child = context
        while (node := child.parent) is not None:
            visible = child.start - node.start
            before = self._deepest(node)
            seen = self._seen.setdefault(node, {})
            readers = seen[visible] = seen.get(visible, 0) + by
            if not readers:
                del seen[visible]
                if not seen:
                    del self._seen[node]
            if node not in self._own:
                self.num_distinct_tokens += self._deepest(node) - before
            child = node
