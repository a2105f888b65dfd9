"""Iteration-level batching over a context tree (Orca, Yu et al. 2022), without time, tasks or tensors.

    submit ─▶ in line on its context ─▶ parked until its parent is long enough ─▶ queued ─▶ running ─▶ ended
                                                                                    ▲          │
                                                                                    └ preempted┘

Requests on one context run in order. The queue is by priority, then arrival. A request is admitted when its
prompt's blocks can be had; a running one that needs a block takes it from cache, then from running requests
that rank behind it (preemption: their KV is dropped and computed again), then, when it ranks first, from
contexts in which nothing runs. So the first in rank always gets on unless it cannot fit even alone, and
nothing can wait in a circle.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Literal, Protocol

from parrot.engine.accounting import Context, ContextTree
from parrot.errors import CallError, EngineError, InvalidError, ParrotError
from parrot.ports.engine import (
    ContextRef,
    FillRequest,
    FillResult,
    GenerateChunk,
    GenerateEnd,
    GenerateRequest,
)
from parrot.types.ids import ContextId

Stage = Literal["lined", "parked", "queued", "running", "ended"]


class Output(Protocol):
    """The growing output of one generation: the model's part of the work."""

    def advance(self, limit: int) -> tuple[tuple[int, ...], str, Literal["more", "stop"]]:
        """At most `limit` more tokens, the text that is certain now, and whether the output has ended."""
        ...

    def finish(self) -> tuple[str, bool]:
        """The rest of the text, and whether the text is exactly what the tokens decode to."""
        ...


@dataclass(slots=True, eq=False, kw_only=True)
class Work:
    """One request on its way through the batcher."""

    request: FillRequest | GenerateRequest
    context: Context
    seq: int
    priority: int
    """Of the request, or of the most urgent that waits for it; lower runs first."""
    stage: Stage = "lined"
    parked_at: Context | None = None
    """What it waits for to grow, while it is parked."""
    num_appended: int = 0
    """Tokens of the request that are in the context."""
    num_prefilled: int = 0
    num_generated: int = 0
    output: Output | None = None

    @property
    def rank(self) -> tuple[int, int]:
        """Lower runs first."""
        return (self.priority, self.seq)

    @property
    def num_pending(self) -> int:
        """Tokens of the request that are still to be appended."""
        return len(self.request.token_ids) - self.num_appended


@dataclass(slots=True, kw_only=True)
class Step:
    """What one step did."""

    num_prefilled: int = 0
    num_decoded: int = 0
    stepped: list[Work] = field(default_factory=list)
    filled: list[tuple[Work, FillResult]] = field(default_factory=list)
    chunks: list[tuple[Work, GenerateChunk]] = field(default_factory=list)
    failed: list[tuple[Work, ParrotError]] = field(default_factory=list)


def context_gone(context_id: ContextId) -> EngineError:
    """The error of a request whose context, or whose parent, is not there."""
    return EngineError(f"context {context_id} does not exist here", code="context_gone")


class Batcher:
    """Which request does what in the next step, and the contexts and blocks that go with it."""

    def __init__(
        self,
        tree: ContextTree,
        *,
        max_batch: int,
        step_tokens: int,
        tokens_per_step: int,
        context_tokens: int,
        begin: Callable[[Work], Output],
    ) -> None:
        self.tree = tree
        self.num_preemptions = 0
        self._max_batch = max_batch
        self._step_tokens = step_tokens
        self._tokens_per_step = tokens_per_step
        self._context_tokens = context_tokens
        self._begin = begin
        self._lines: dict[Context, deque[Work]] = {}
        self._parked: dict[Context, list[Work]] = {}
        self._queue: list[tuple[int, int, Work]] = []
        self._running: dict[Work, None] = {}
        self._num_works = 0
        self._seq = 0

    @property
    def num_running(self) -> int:
        """Requests in the batch."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that are not in the batch yet, or were preempted."""
        return self._num_works - len(self._running)

    @property
    def can_step(self) -> bool:
        """Whether a step would do anything."""
        while self._queue:
            *rank, work = self._queue[0]
            if work.stage == "queued" and tuple(rank) == work.rank:
                break
            heapq.heappop(self._queue)
        return bool(self._running or self._queue)

    def submit(self, request: FillRequest | GenerateRequest) -> Work:
        """Take a request, creating its context when it is new.

        Raises:
            EngineError: `context_gone`.
            InvalidError: the fork stands before the parent's first token.
        """
        context = self.tree.find(request.context_id)
        if context is None:
            parent = self._parent(request.parent)
            start = request.parent.num_tokens if request.parent else 0
            context = self.tree.create(request.context_id, parent=parent, start=start)
        else:
            self.tree.hold(context)
        self._seq += 1
        work = Work(request=request, context=context, seq=self._seq, priority=request.priority)
        line = self._lines.setdefault(context, deque())
        line.append(work)
        self._num_works += 1
        if len(line) == 1:
            self._enter(work)
        return work

    def cancel(self, work: Work) -> None:
        """Stop a request; its context keeps what it has."""
        if work.stage != "ended":
            self._end(work)

    def free(self, context_ids: Iterable[ContextId], *, retain: bool) -> list[Work]:
        """Give up contexts. Returns the requests that end with `context_gone`: those on these contexts, and
        those on forks at a length that these contexts had not reached.
        """
        lost: list[Work] = []
        for context_id in context_ids:
            context = self.tree.find(context_id)
            if context is not None:
                lost += self._free(context, retain=retain)
        return lost

    def step(self) -> Step:
        """Admit what fits, then let every running request prefill a chunk or decode, in order of rank."""
        step = Step()
        self._admit(step)
        budget = self._step_tokens
        for work in sorted(self._running, key=lambda work: work.rank):
            if work.stage != "running":
                continue
            step.stepped.append(work)
            try:
                if work.num_pending or self.tree.missing(work.context):
                    budget -= self._prefill(work, budget, step)
                if self._has_prompt(work):
                    self._after_prompt(work, step)
            except ParrotError as error:
                step.failed.append((work, error))
                self._end(work)
        return step

    def _parent(self, reference: ContextRef | None) -> Context | None:
        if reference is None:
            return None
        parent = self.tree.find(reference.context_id)
        if reference.num_tokens < 0:
            raise InvalidError("a fork stands before its parent's first token", param="parent.num_tokens")
        if parent is None or (parent.retained and parent.length < reference.num_tokens):
            raise context_gone(reference.context_id)
        return parent

    def _enter(self, work: Work) -> None:
        """The request is first in line on its context: queue it, or park it at the node it waits for."""
        for node in work.context.lineage():
            if not node.reachable and node.parent is not None:
                work.stage, work.parked_at = "parked", node.parent
                self._parked.setdefault(node.parent, []).append(work)
                self._hurry(node.parent, work.priority)
                return
        work.stage = "queued"
        for other in self._parked.get(work.context, ()):
            work.priority = min(work.priority, other.priority)
        heapq.heappush(self._queue, (*work.rank, work))

    def _hurry(self, context: Context, priority: int) -> None:
        """Something of this priority waits for a context: what fills it has that priority too."""
        line = self._lines.get(context)
        if not line or line[0].priority <= priority:
            return
        work = line[0]
        work.priority = priority
        if work.stage == "queued":
            heapq.heappush(self._queue, (*work.rank, work))
        elif work.stage == "parked":
            for node in work.context.lineage()[:-1]:
                self._hurry(node, priority)

    def _end(self, work: Work) -> None:
        self._let_go(work)
        line = self._lines[work.context]
        was_first = line[0] is work
        line.remove(work)
        if not line:
            del self._lines[work.context]
        elif was_first:
            self._enter(line[0])

    def _let_go(self, work: Work) -> None:
        """The request has ended: nothing counts it any more but its line."""
        self._running.pop(work, None)
        if work.parked_at is not None:
            waiting = self._parked[work.parked_at]
            waiting.remove(work)
            if not waiting:
                del self._parked[work.parked_at]
            work.parked_at = None
        work.stage = "ended"
        self._num_works -= 1

    def _free(self, context: Context, *, retain: bool) -> list[Work]:
        lost: list[Work] = []
        for child in list(context.children):
            if child.start > context.length:
                lost += self._free(child, retain=False)
        for work in self._lines.pop(context, ()):
            self._let_go(work)
            lost.append(work)
        self.tree.release(context, retain=retain)
        return lost

    def _admit(self, step: Step) -> None:
        promised = 0
        if self._queue:
            promised = sum(self._blocks_wanted(work) for work in self._running if work.num_pending)
        while self.can_step and self._queue and len(self._running) < self._max_batch:
            work = self._queue[0][2]
            error: ParrotError | None = self._too_long(work)
            wanted = self._blocks_wanted(work)
            if error is None and promised + wanted > self.tree.num_available:
                if not self._fits_alone(work):
                    error = self._exhausted(work)
                elif self._running:
                    return
                elif not self._clear_room(work, wanted):
                    error = self._exhausted(work)
            heapq.heappop(self._queue)
            if error is not None:
                step.failed.append((work, error))
                self._end(work)
                continue
            promised += wanted
            work.stage = "running"
            self._running[work] = None

    def _blocks_wanted(self, work: Work) -> int:
        one_more = isinstance(work.request, GenerateRequest)
        return self.tree.blocks_to_append(work.context, work.num_pending + one_more)

    def _too_long(self, work: Work) -> CallError | None:
        one_more = isinstance(work.request, GenerateRequest) and not work.num_generated
        length = work.context.length + work.num_pending
        if length + one_more <= self._context_tokens:
            return None
        return CallError(
            f"the prompt has {length} tokens, the model's window is {self._context_tokens}",
            code="context_overflow",
            data={"num_tokens": length, "context_tokens": self._context_tokens},
        )

    def _fits_alone(self, work: Work) -> bool:
        """Whether its blocks could be had if nothing else held any."""
        one_more = isinstance(work.request, GenerateRequest)
        return self.tree.blocks_alone(work.context, work.num_pending + one_more) <= self.tree.num_blocks

    def _exhausted(self, work: Work) -> EngineError:
        needed = self.tree.blocks_alone(work.context, work.num_pending + 1)
        return EngineError(
            f"the request needs {needed} KV blocks, and the engine has {self.tree.num_blocks} in all",
            code="kv_exhausted",
            data={"num_blocks": needed, "limit_blocks": self.tree.num_blocks},
        )

    def _prefill(self, work: Work, budget: int, step: Step) -> int:
        """Compute what was dropped, then the request's own tokens, as far as the budget and memory go.

        Returns how many tokens that were.
        """
        left = budget
        gaps = self.tree.missing(work.context)
        for gap in gaps:
            until = min(gap.until, gap.context.num_computed + left)
            chunk = until - gap.context.num_computed
            if not chunk or not self._take(work, partial(self.tree.recompute, gap.context, until)):
                break
            left -= chunk
        chunk = min(left, work.num_pending)
        if chunk and work.stage == "running":
            tokens = work.request.token_ids[work.num_appended : work.num_appended + chunk]
            if self._take(work, partial(self.tree.append, work.context, tokens)):
                left -= chunk
                work.num_appended += chunk
                self._grown(work.context)
        work.num_prefilled += budget - left
        step.num_prefilled += budget - left
        return budget - left

    def _has_prompt(self, work: Work) -> bool:
        return work.stage == "running" and not work.num_pending and not self.tree.missing(work.context)

    def _after_prompt(self, work: Work, step: Step) -> None:
        if isinstance(work.request, FillRequest):
            result = FillResult(num_tokens=work.context.length, num_prefilled=work.num_prefilled)
            step.filled.append((work, result))
            self._end(work)
        else:
            self._decode(work, work.request, step)

    def _decode(self, work: Work, request: GenerateRequest, step: Step) -> None:
        limit = self._decode_limit(work, request)
        if not limit:
            return
        if work.output is None:
            work.output = self._begin(work)
        token_ids, text, state = work.output.advance(limit)
        added = self.tree.append(work.context, token_ids)
        assert added, "room was made for these tokens"
        work.num_generated += len(token_ids)
        step.num_decoded += len(token_ids)
        at_limit = (
            work.num_generated >= request.sampling.max_tokens or work.context.length >= self._context_tokens
        )
        end: GenerateEnd | None = None
        if state == "stop" or at_limit:
            rest, exact = work.output.finish()
            text += rest
            end = GenerateEnd(
                reason="stop" if state == "stop" else "length",
                exact=exact,
                num_tokens=work.context.length,
                num_prefilled=work.num_prefilled,
            )
        if token_ids or end:
            step.chunks.append((work, GenerateChunk(text=text, token_ids=token_ids, end=end)))
        if token_ids:
            self._grown(work.context)
        if end:
            self._end(work)

    def _decode_limit(self, work: Work, request: GenerateRequest) -> int:
        """How many tokens it may decode now: room has been made for them. 0 when it was preempted."""
        limit = min(
            self._tokens_per_step,
            request.sampling.max_tokens - work.num_generated,
            self._context_tokens - work.context.length,
        )
        if self.tree.blocks_to_append(work.context, limit) > self.tree.num_available:
            limit = 1
        room = self._take(
            work, lambda: self.tree.blocks_to_append(work.context, limit) <= self.tree.num_available
        )
        return limit if room else 0

    def _take(self, work: Work, attempt: Callable[[], bool]) -> bool:
        """Try something that takes blocks, giving way step by step. False when the request was preempted.

        Raises `EngineError` (`kv_exhausted`) when it is first in rank and nothing is left to give way.
        """
        while not attempt():
            behind = [other for other in self._running if other.rank > work.rank]
            if behind:
                self._preempt(max(behind, key=lambda other: other.rank))
            elif len(self._running) > 1:
                self._preempt(work)
                return False
            elif not self._drop_one(work):
                raise self._exhausted(work)
        return True

    def _preempt(self, work: Work) -> None:
        self.num_preemptions += 1
        self.tree.drop(work.context)
        del self._running[work]
        work.stage = "queued"
        heapq.heappush(self._queue, (*work.rank, work))

    def _clear_room(self, work: Work, wanted: int) -> bool:
        """Nothing runs: drop contexts in which nothing runs until `work` fits."""
        while wanted > self.tree.num_available:
            if not self._drop_one(work):
                return False
            wanted = self._blocks_wanted(work)
        return True

    def _drop_one(self, work: Work) -> bool:
        """Drop the KV of the context that was used longest ago and that `work` can do without."""
        lineage = work.context.lineage()
        keep = {node: child.start - node.start for node, child in pairwise(lineage)}
        keep[work.context] = len(work.context.token_ids)
        for node in sorted(self.tree.contexts(), key=lambda node: node.last_used):
            if node.num_users and self.tree.drop(node, keep=keep.get(node, 0)):
                return True
        return False

    def _grown(self, context: Context) -> None:
        """Requests parked at a context that grew may go on."""
        for work in self._parked.pop(context, ()):
            work.parked_at = None
            self._enter(work)
