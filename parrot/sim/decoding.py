"""Requests that decode together, advanced by many steps at once without a visit to each.

All of them grow by one token a step. So what each has follows from the number of steps taken since it
joined; how many blocks all of them have, and how much KV they read, is kept as sums (`LazyBlocks`,
`KvReading`). The context tree is brought up to date for one of them only when it ends or is looked at; the
blocks that it will take by then are set aside.
"""

import heapq
from typing import Literal

from msgspec import Struct

from parrot.engine.accounting import Context, ContextTree
from parrot.ports.engine import FillRequest, GenerateRequest
from parrot.sim.kv_reading import KvReading
from parrot.sim.lazy_blocks import LazyBlocks

Stage = Literal["lined", "parked", "queued", "prefilling", "decoding", "ended"]


class Work(Struct, eq=False, kw_only=True):
    """One request on its way through the batch."""

    request: FillRequest | GenerateRequest
    context: Context
    rank: tuple[int, int]
    """Lower runs first: priority, then arrival."""
    stage: Stage = "lined"
    num_pending: int = 0
    """Tokens of the request that are still to be appended."""
    num_prefilled: int = 0
    begun: bool = False
    """Its first token was told."""
    num_generated: int = 0
    """As far as the tree knows; more while it decodes."""
    since_step: int = 0
    """The step at which `num_generated` was right, while it decodes."""
    last_step: int = 0
    """The step at which its output ends, while it decodes."""


def by_rank(work: Work) -> tuple[int, int]:
    """Which of several requests comes first."""
    return work.rank


def child_towards(context: Context, below: Context) -> Context:
    """The child of `context` on the way down to `below`."""
    node = below
    while node.parent is not context:
        assert node.parent is not None, "below it in the tree"
        node = node.parent
    return node


class Decoding:
    """The requests that decode, and the step they have come to."""

    def __init__(self, tree: ContextTree) -> None:
        self.step = 0
        self.horizon = 0
        """The step up to which blocks are set aside: the end of the stride."""
        self.works: dict[Context, Work] = {}
        self.reading = KvReading()
        self._tree = tree
        self._lazy = LazyBlocks(tree.block_tokens)
        self._num_blocks = 0
        """Blocks that these contexts have in the tree."""
        self._ends: list[tuple[int, int, Work]] = []
        self._watches: list[tuple[int, int, Context]] = []
        self._num_events = 0

    def __len__(self) -> int:
        return len(self.works)

    def start(self, work: Work, num_left: int) -> None:
        """A request whose context the tree knows as it is begins to decode `num_left` more tokens."""
        context = work.context
        work.stage = "decoding"
        work.since_step = self.step
        work.last_step = self.step + num_left
        self.works[context] = work
        self._lazy.add(own_tokens=context.num_own, step=self.step)
        self._num_blocks += context.num_blocks
        self.reading.join(context)
        self._num_events += 1
        heapq.heappush(self._ends, (work.last_step, self._num_events, work))

    def stop(self, work: Work) -> None:
        """A request that the tree is up to date with decodes no more."""
        context = work.context
        own = context.num_own
        del self.works[context]
        self._lazy.remove(own_tokens=own, step=work.since_step)
        self._num_blocks -= context.num_blocks
        self.reading.leave(context, own_tokens=own)
        work.stage = "queued"

    def catch_up(self, context: Context) -> bool:
        """Bring the tree up to date with a context; False when it is, or does not decode."""
        work = self.works.get(context)
        if work is None or work.since_step == self.step:
            return False
        grown = self.step - work.since_step
        before = context.num_blocks
        added = self._tree.extend(context, grown)
        assert added, "blocks for a whole stride were free when it began"
        self._num_blocks += context.num_blocks - before
        work.num_generated += grown
        work.since_step = self.step
        return True

    def watch(self, context: Context, num_tokens: int) -> None:
        """Stop at the step in which a context that decodes will be `num_tokens` longer than the tree
        knows.
        """
        self._num_events += 1
        until = self.works[context].since_step + num_tokens
        heapq.heappush(self._watches, (until, self._num_events, context))

    @property
    def num_reserved(self) -> int:
        """Blocks set aside, beyond those that these contexts have in the tree."""
        return self.blocks_at(self.horizon)

    def blocks_at(self, step: int) -> int:
        """Blocks needed at a step beyond those that these contexts have in the tree."""
        return self._lazy.count(step) - self._num_blocks

    def reserve(self, num_steps: int) -> None:
        """Set blocks aside for so many steps; there are enough beside what is in use."""
        self._set_aside(num_steps, self.blocks_at(self.step + num_steps))

    def _set_aside(self, num_steps: int, num_blocks: int) -> None:
        self.horizon = self.step + num_steps
        if num_blocks > self._tree.num_free:
            self._tree.evict(num_blocks)

    def steps_to_event(self) -> int:
        """Steps until the next output ends or a watched context is long enough; somebody decodes."""
        while self._ends[0][2].stage != "decoding" or self._ends[0][2].last_step != self._ends[0][0]:
            heapq.heappop(self._ends)
        until = self._ends[0][0]
        if self._watches:
            until = min(until, self._watches[0][0])
        return max(1, until - self.step)

    def is_watched_before(self, step: int) -> bool:
        """Whether a watched context is long enough before a step."""
        return bool(self._watches) and self._watches[0][0] < step

    def steps_with_blocks(self, most: int) -> int:
        """How many steps there are blocks for, at most `most`; sets these blocks aside.

        Cache is evicted for one block's worth of steps at a time, so that none goes much before it must.
        """
        steps = most
        num_blocks = self.blocks_at(self.step + steps)
        if num_blocks > self._tree.num_free:
            steps = min(most, self._tree.block_tokens)
            num_blocks = self.blocks_at(self.step + steps)
            while steps and num_blocks > self._tree.num_available:
                steps -= 1
                num_blocks = self.blocks_at(self.step + steps)
        if steps:
            self._set_aside(steps, num_blocks)
        return steps

    def advance(self, num_steps: int) -> tuple[list[Work], list[Context]]:
        """Everyone takes so many steps. Returns the requests whose outputs end, and watched contexts."""
        self.step += num_steps
        self.reading.grow(num_steps)
        # Preempted and back at the same step, a request is in the heap twice.
        ended: dict[Work, None] = {}
        while self._ends and self._ends[0][0] <= self.step:
            last_step, _, work = heapq.heappop(self._ends)
            if work.stage == "decoding" and work.last_step == last_step:
                ended[work] = None
        watched: list[Context] = []
        while self._watches and self._watches[0][0] <= self.step:
            watched.append(heapq.heappop(self._watches)[2])
        return list(ended), watched
