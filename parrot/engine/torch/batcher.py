"""Which tokens the next step computes: continuous batching (Orca, OSDI 2022) with chunked prefill.

Every request is, at any time, some tokens that are known and not yet computed: a prompt, one generated
token, or tokens whose KV was dropped. A step takes the first `max_batch` requests by priority and arrival;
each that lacks one token gets it, the others share what is left of `step_tokens`, or the less that leaves
the step within the strictest target of the requests that decode in it.

    ancestors' KV dropped or left open    →  compute that first, once for all who need it
    ancestor still being filled           →  its request runs in place of the one that waits (so a low
                                             priority never holds up a high one)
    held, and only the last token left    →  it waits until it is let go
    own tokens not computed               →  a chunk of them
    nothing left and a token is wanted    →  a probe: the last token's logits, written nowhere

Memory. Blocks for all known tokens of a context are taken at once. When they do not suffice, cache is
evicted, then contexts that nobody works on are dropped, then those of requests further back, the furthest
first; tokens stay known and are computed again. A request that has not begun takes blocks from nobody but
idle contexts and requests of lower priority. The foremost request may take all the others', so it always
moves on, or cannot fit at all; hence there is no deadlock.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, assert_never

from parrot.engine.torch.contexts import Context, ContextTree
from parrot.engine.torch.step_cost import StepCost
from parrot.errors import CallError, EngineError, InvalidError, ParrotError
from parrot.types.ids import RequestId

Rank = tuple[float, float]
"""Priority, then arrival; lower runs first."""

_IDLE: Rank = (float("inf"), float("inf"))
_FOREMOST: Rank = (float("-inf"), float("-inf"))

MIN_PREFILL_TOKENS = 16
"""Where prompts wait, a step computes so many of their tokens whatever its target is: else they would wait
for as long as somebody decodes."""


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One fill or generate as the batcher sees it."""

    request_id: RequestId
    context: Context
    token_ids: tuple[int, ...]
    rank: Rank
    generates: bool
    target_step_s: float | None = None
    """While it decodes, steps should take no longer."""
    held: bool = False
    """It may be prefilled up to its last token, and no further yet: what bounds its output is being made."""
    begun: bool = False
    """It holds blocks of its own; False again when they are taken from it."""
    prompt_end: int = 0
    """Own tokens of the context up to where generation begins."""
    lineage: list[tuple[Context, int]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True, eq=False)
class Chunk:
    """Some tokens of one context to be computed in a step, on behalf of a request."""

    request: Request
    context: Context
    first: int
    """Index of the first one among the context's own tokens."""
    num_tokens: int
    probe: bool = False
    """The context's last token again, for its logits; its KV is there and is not written."""

    @property
    def end(self) -> int:
        """Own tokens of the context that are computed after it."""
        return self.first + self.num_tokens

    @property
    def wants_logits(self) -> bool:
        """It ends with the last known token of a request that generates."""
        return self.probe or (
            self.request.generates
            and self.context is self.request.context
            and self.end == len(self.context.tokens)
        )

    @property
    def decodes(self) -> bool:
        """It computes the token that its request generated last."""
        own = self.context is self.request.context
        return own and self.num_tokens == 1 and self.first >= self.request.prompt_end and not self.probe


@dataclass(slots=True, kw_only=True)
class Step:
    """What one step does."""

    chunks: list[Chunk] = field(default_factory=list)
    finished: list[Request] = field(default_factory=list)
    """Fills with nothing left to compute."""
    failed: list[tuple[Request, ParrotError]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """There is nothing to do until something is submitted or freed."""
        return not (self.chunks or self.finished or self.failed)


class Batcher:
    """The requests of an engine, and the plan of each step. Not thread-safe."""

    def __init__(self, *, tree: ContextTree, max_batch: int, step_tokens: int, context_tokens: int) -> None:
        self.tree = tree
        self.step_tokens = step_tokens
        self.max_batch = max_batch
        self.num_preemptions = 0
        self.cost = StepCost()
        """What steps cost, as far as it was learnt; it decides how many prompt tokens a target leaves."""
        self._context_tokens = context_tokens
        self._heads: list[Request] = []
        """The first request of each context, by rank."""
        self._queues: dict[Context, deque[Request]] = {}
        """All requests of each context in order, the first one included."""
        self._failed: list[tuple[Request, ParrotError]] = []

    @property
    def num_requests(self) -> int:
        """Requests that have not ended."""
        return sum(map(len, self._queues.values()))

    @property
    def num_begun(self) -> int:
        """Requests that hold blocks of their own."""
        return sum(request.begun for request in self._heads)

    def submit(self, request: Request) -> None:
        """Take a request whose context is open. What is wrong with it is told by the next plan."""
        request.lineage = request.context.lineage()
        queue = self._queues.setdefault(request.context, deque())
        queue.append(request)
        if len(queue) == 1:
            self._begin(request)

    def requests_of(self, context: Context) -> list[Request]:
        """The requests on a context in their order."""
        return list(self._queues.get(context, ()))

    def plan(self) -> Step:
        """Decide the next step, and take the blocks it needs.

        Requests in `finished` and `failed` are taken out already.
        """
        step = Step(failed=self._failed)
        self._failed = []
        candidates = self._candidates(step)
        budget = self._prefill_budget([chunk for chunk, _ in candidates])
        keep: dict[Context, int] = {}
        admitting = True
        num_preemptions = self.num_preemptions
        for chunk, rank in candidates:
            request = chunk.request
            if len(step.chunks) == self.max_batch:
                break
            if self.num_preemptions != num_preemptions and not _holds(chunk):
                continue
            if (chunk.num_tokens > 1 and not budget) or not (request.begun or admitting):
                continue
            has_room = self._make_room(chunk, rank, keep, alone=not step.chunks)
            if not has_room and step.is_empty and not self._is_holding:
                # Whoever is before it waits for what nobody computes, and can do without memory meanwhile.
                has_room = self._make_room(chunk, _FOREMOST, keep, alone=True)
                if not has_room:
                    self._fail(step, request, self._exhausted())
                    break
            if not has_room:
                admitting = admitting and request.begun
                continue
            if chunk.num_tokens > 1:
                chunk.num_tokens = min(chunk.num_tokens, budget)
                budget -= chunk.num_tokens
            request.begun = True
            self._protect(keep, request)
            step.chunks.append(chunk)
        return step

    def commit(self, chunk: Chunk) -> int:
        """A chunk's KV is in the cache now. Returns how many of its tokens are no prompt: a last generated
        one that an earlier request left open.
        """
        if chunk.probe:
            return 0
        context = chunk.context
        context.num_computed = max(context.num_computed, chunk.end)
        context.num_kept = max(context.num_kept, chunk.end)
        was_open, context.open_tail = context.open_tail, False
        return int(was_open)

    def end(self, request: Request) -> None:
        """A request is done: its context keeps all its tokens, a last generated one too whose KV is not
        computed yet.
        """
        context = request.context
        context.num_kept = len(context.tokens)
        context.open_tail = request.generates and context.num_computed < len(context.tokens)
        self._take_out(request)

    def stop(self, request: Request) -> None:
        """A request failed or was cancelled: its context keeps the tokens that were computed. What was found
        wrong with it, and not told yet, never is.
        """
        self._failed = [entry for entry in self._failed if entry[0] is not request]
        queue = self._queues.get(request.context)
        if queue and queue[0] is request:
            self.tree.forget_uncomputed(request.context)
        self._take_out(request)

    def _begin(self, request: Request) -> None:
        """The request is the first of its context now."""
        insort(self._heads, request, key=_rank)
        context = request.context
        num_tokens = context.num_tokens + len(request.token_ids)
        room = self._context_tokens - request.generates
        blocks = sum(self.tree.blocks_for(count) for _, count in request.lineage)
        blocks += self.tree.blocks_for(len(context.tokens) + len(request.token_ids))
        error: ParrotError | None = None
        if num_tokens > room:
            error = CallError(
                f"prompt and output need at least {num_tokens + request.generates} tokens, "
                f"the model's window is {self._context_tokens}",
                code="context_overflow",
                data={"num_tokens": num_tokens, "context_tokens": self._context_tokens},
            )
        elif blocks > self.tree.pool.num_blocks:
            error = self._exhausted()
        elif not num_tokens and request.generates:
            error = InvalidError("nothing to generate from: the context is empty", param="token_ids")
        if error is None:
            context.tokens += request.token_ids
            request.prompt_end = len(context.tokens)
        else:
            self._failed.append((request, error))
            self._take_out(request)

    def _take_out(self, request: Request) -> None:
        queue = self._queues.get(request.context)
        if queue is None or request not in queue:
            return
        was_head = queue[0] is request
        queue.remove(request)
        if was_head:
            at = bisect_left(self._heads, request.rank, key=_rank)
            assert self._heads[at] is request
            del self._heads[at]
        if not queue:
            del self._queues[request.context]
        elif was_head:
            self._begin(queue[0])

    def _prefill_budget(self, chunks: Sequence[Chunk]) -> int:
        """Tokens that chunks of more than one token may have together."""
        budget = max(1, self.step_tokens - sum(chunk.num_tokens == 1 for chunk in chunks))
        decoding = [chunk.request for chunk in chunks if chunk.decodes]
        target_s = min((one.target_step_s for one in decoding if one.target_step_s is not None), default=None)
        if target_s is None or len(decoding) == len(chunks):
            return budget
        within = self.cost.prompt_tokens_within(target_s, len(decoding))
        return min(budget, max(MIN_PREFILL_TOKENS, within))

    def _candidates(self, step: Step) -> list[tuple[Chunk, Rank]]:
        """The chunks that could run, foremost first, each with the rank it runs at. Beside as many as a step
        takes, those of requests that hold blocks: others before them may find no memory.
        """
        found: list[tuple[Chunk, Rank]] = []
        claimed: set[Context] = set()
        for waiting in list(self._heads):
            if len(found) >= self.max_batch and not waiting.begun:
                continue
            request, gap = self._first_gap(waiting)
            if request.context in claimed or (gap is not None and gap[0] in claimed):
                continue
            match chunk := self._chunk(request, gap):
                case Chunk():
                    claimed.add(request.context if gap is None else gap[0])
                    found.append((chunk, waiting.rank))
                case ParrotError():
                    self._fail(step, request, chunk)
                case "done":
                    claimed.add(request.context)
                    step.finished.append(request)
                    self.end(request)
                case "waits":
                    pass
                case _:
                    assert_never(chunk)
        return found

    def _first_gap(self, request: Request) -> tuple[Request, tuple[Context, int] | None]:
        """The first ancestor that lacks KV. When a request works on it, that one runs in place of this."""
        for context, need in request.lineage:
            if context.num_computed < need:
                queue = self._queues.get(context)
                return (queue[0], None) if queue else (request, (context, need))
        return request, None

    def _chunk(
        self, request: Request, gap: tuple[Context, int] | None
    ) -> Chunk | ParrotError | Literal["done", "waits"]:
        context, end = gap or (request.context, len(request.context.tokens))
        if len(context.tokens) < end:
            if context.state == "live":
                return "waits"
            return EngineError(
                f"context {context.context_id} was given up before it was {context.start + end} tokens long",
                code="context_gone",
            )
        first = context.num_computed
        if gap is None and request.held:
            end -= 1
            if first >= end:
                return "waits"
        if first < end:
            return Chunk(request=request, context=context, first=first, num_tokens=end - first)
        if not request.generates:
            return "done"
        if not context.tokens:
            context, end = request.lineage[-1]
        return Chunk(request=request, context=context, first=end - 1, num_tokens=1, probe=True)

    def _make_room(self, chunk: Chunk, rank: Rank, keep: Mapping[Context, int], *, alone: bool) -> bool:
        """Take blocks for all known tokens of the chunk's context, from others if need be."""
        if chunk.probe:
            return True
        request, context = chunk.request, chunk.context
        missing = self.tree.blocks_for(chunk.end) - context.num_blocks
        if missing <= 0:
            return True
        reserve = 0
        if not request.begun and not alone:
            rank = (rank[0], float("inf"))
            reserve = self.num_begun
        if missing + reserve > self.tree.num_free:
            mine = dict(keep)
            self._protect(mine, request)
            if not self._reclaim(missing + reserve, rank, mine):
                return False
        return self.tree.reserve(context, chunk.end)

    def _reclaim(self, num_blocks: int, rank: Rank, keep: dict[Context, int]) -> bool:
        """Free blocks until so many are free: cache first, then KV that only requests behind `rank`, or
        none, need.
        """
        tree = self.tree
        available = tree.num_free + tree.num_cached
        victims = self._victims(rank, keep) if available < num_blocks else []
        spare = sum(node.num_blocks - tree.blocks_for(keep.get(node, 0)) for node in victims)
        if available + spare < num_blocks:
            return False
        while tree.num_free < num_blocks and tree.evict_one():
            pass
        for node in victims:
            if tree.num_free >= num_blocks:
                break
            self._drop(node, keep.get(node, 0))
        return True

    def _victims(self, rank: Rank, keep: dict[Context, int]) -> list[Context]:
        """Contexts in use that have blocks which only requests behind `rank`, or none, need, in the order in
        which they are dropped. Adds to `keep` what those before `rank` need.
        """
        tree = self.tree
        needed_at: dict[Context, Rank] = {}
        for head in self._heads:
            for context, need in (*head.lineage, (head.context, len(head.context.tokens))):
                needed_at.setdefault(context, head.rank)
                if head.rank < rank:
                    keep[context] = max(need, keep.get(context, 0))
        victims = [
            (needed_at.get(node, _IDLE), node.start, -node.last_used, node)
            for node in tree.nodes_in_use()
            if node.num_blocks > tree.blocks_for(keep.get(node, 0))
        ]
        victims.sort(key=lambda victim: victim[:3], reverse=True)
        return [node for *_, node in victims]

    def _drop(self, context: Context, num_tokens: int) -> None:
        """Preempt: the KV goes, the tokens stay."""
        self.tree.shrink(context, num_tokens)
        self.num_preemptions += 1
        for request in self.requests_of(context)[:1]:
            request.begun = False

    def _protect(self, keep: dict[Context, int], request: Request) -> None:
        """Note what the request reads and writes in this step."""
        for context, need in request.lineage:
            keep[context] = max(need, keep.get(context, 0))
        keep[request.context] = len(request.context.tokens)

    @property
    def _is_holding(self) -> bool:
        """Some request will go on by itself, so that what does not fit now may fit later."""
        return any(head.held for head in self._heads)

    def _fail(self, step: Step, request: Request, error: ParrotError) -> None:
        step.failed.append((request, error))
        self.stop(request)

    def _exhausted(self) -> EngineError:
        tree = self.tree
        return EngineError(
            f"the context does not fit into the engine's {tree.pool.num_blocks} KV blocks "
            f"of {tree.block_tokens} tokens",
            code="kv_exhausted",
            data={"num_blocks": tree.pool.num_blocks, "block_tokens": tree.block_tokens},
        )


def _rank(request: Request) -> Rank:
    return request.rank


def _holds(chunk: Chunk) -> bool:
    """What the chunk builds on is still there, after others took blocks."""
    context = chunk.context
    first = chunk.end if chunk.probe else chunk.first
    return context.num_computed >= first and all(
        ancestor.num_computed >= need for ancestor, need in context.lineage()
    )
