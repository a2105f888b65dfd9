"""Continuous batching in strides: the rules of `engine.batching`, without a visit to each request in each
step.

    submit ─▶ in line on its context ─▶ parked until its parent is long enough ─▶ queued
           ─▶ prefilling, a chunk a step ─▶ decoding, a token a step ─▶ ended

Between two events (an arrival, a prompt's chunk, an output's end, a block that is not there) a batch that
only decodes does the same step over and over. `begin` therefore plans a **stride**: one step with prefill in
it, or as many decode steps as nothing interrupts. What every decoding request has by then follows from the
number of steps (`LazyBlocks`, `KvReading`), and the context tree is brought up to date for a request only
when it is looked at.

Times come out, none goes in: `begin` says how long the stride takes, `cut` shortens it to the step that is
under way, `end` says what it did.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from itertools import pairwise

from msgspec import Struct, field

from parrot.engine.accounting import Context, ContextTree
from parrot.engine.batching import context_gone
from parrot.errors import CallError, EngineError, InvalidError, ParrotError
from parrot.ports.engine import ContextRef, FillRequest, GenerateRequest
from parrot.sim.cost import CostModel, DecodeSteps
from parrot.sim.decoding import Decoding, Work, by_rank, child_towards
from parrot.types.ids import ContextId


class Outcome(Struct, kw_only=True):
    """What a stride did."""

    begun: list[Work] = field(default_factory=list)
    """Generations that have their first token."""
    grown: list[Work] = field(default_factory=list)
    """Generations that have another piece."""
    ended: list[Work] = field(default_factory=list)
    failed: list[tuple[Work, ParrotError]] = field(default_factory=list)


class _Stride(Struct, kw_only=True):
    num_steps: int
    """Steps that decoding requests take part in."""
    steps: DecodeSteps | None = None
    """None for a step with prefill, which cannot be cut."""
    grown: list[Work] = field(default_factory=list)
    """Requests whose prompts are complete after it."""


class StrideBatch:
    """Which request does what in the next steps, and the contexts and blocks that go with it."""

    def __init__(
        self,
        tree: ContextTree,
        cost: CostModel,
        *,
        max_batch: int,
        step_tokens: int,
        chunked: bool,
        context_tokens: int,
        piece_tokens: int | None = None,
    ) -> None:
        self.tree = tree
        self.num_preemptions = 0
        self.num_prefilled = 0
        self.num_decoded = 0
        self.num_steps = 0
        self._cost = cost
        self._max_batch = max_batch
        self._step_tokens = step_tokens
        self._chunked = chunked
        self._context_tokens = context_tokens
        self._piece_tokens = piece_tokens
        self._lines: dict[Context, deque[Work]] = {}
        self._parked: dict[Context, list[Work]] = {}
        self._queue: list[tuple[tuple[int, int], Work]] = []
        self._prefilling: dict[Work, None] = {}
        self._num_works = 0
        self._seq = 0
        self._decoding = Decoding(tree)
        self._stride: _Stride | None = None
        self._outcome = Outcome()

    @property
    def num_running(self) -> int:
        """Requests in the batch."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def num_decoding(self) -> int:
        """Requests in the batch whose prompts are computed."""
        return len(self._decoding)

    @property
    def num_waiting(self) -> int:
        """Requests that are not in the batch yet, or were preempted."""
        return self._num_works - self.num_running

    def num_done(self, elapsed_s: float) -> int:
        """Decode steps of the stride under way that are over `elapsed_s` seconds after it began."""
        stride = self._stride
        return (
            0
            if stride is None or stride.steps is None
            else stride.steps.num_done(elapsed_s, stride.num_steps)
        )

    # ── requests come and go ────────────────────────────────────────────────────────────────────────────────

    def submit(self, request: FillRequest | GenerateRequest) -> Work:
        """Take a request, creating its context when it is new; raises as `engine.batching` does."""
        context = self.tree.find(request.context_id)
        if context is None:
            parent = self._parent(request.parent)
            start = request.parent.num_tokens if request.parent else 0
            context = self.tree.create(request.context_id, parent=parent, start=start)
        else:
            self.tree.hold(context)
        self._seq += 1
        work = Work(
            request=request,
            context=context,
            rank=(request.priority, self._seq),
            num_pending=len(request.token_ids),
        )
        line = self._lines.get(context)
        if line is None:
            line = self._lines[context] = deque()
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
        """Give up contexts; returns the requests that end with `context_gone`."""
        lost: list[Work] = []
        for context_id in context_ids:
            context = self.tree.find(context_id)
            if context is not None:
                lost += self._free(context, retain=retain)
        return lost

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
        """First in line on its context: queue the request, or park it at the node it waits for."""
        node: Context | None = work.context
        while node is not None and (parent := node.parent) is not None:
            if parent.length < node.start:
                self._catch_up(parent)
            if parent.length < node.start:
                work.stage = "parked"
                self._parked.setdefault(parent, []).append(work)
                self._hurry(parent, work.rank[0])
                if parent in self._decoding.works:
                    self._decoding.watch(parent, node.start - parent.length)
                return
            node = parent
        work.stage = "queued"
        waiting = (other.rank[0] for other in self._parked.get(work.context, ()))
        work.rank = (min((work.rank[0], *waiting)), work.rank[1])
        heapq.heappush(self._queue, (work.rank, work))

    def _hurry(self, context: Context, priority: int) -> None:
        """Something of this priority waits for a context: what fills it has that priority too."""
        line = self._lines.get(context)
        if not line or line[0].rank[0] <= priority:
            return
        work = line[0]
        work.rank = (priority, work.rank[1])
        if work.stage == "queued":
            heapq.heappush(self._queue, (work.rank, work))
        elif work.stage == "parked":
            for node in work.context.lineage()[:-1]:
                self._hurry(node, priority)

    def _end(self, work: Work) -> None:
        self._leave_batch(work)
        work.stage = "ended"
        self._num_works -= 1
        line = self._lines[work.context]
        was_first = line[0] is work
        line.remove(work)
        if not line:
            del self._lines[work.context]
        elif was_first:
            self._enter(line[0])

    def _leave_batch(self, work: Work) -> None:
        if work.stage == "decoding":
            self._catch_up(work.context)
            self._decoding.stop(work)
        else:
            self._prefilling.pop(work, None)

    def _free(self, context: Context, *, retain: bool) -> list[Work]:
        lost: list[Work] = []
        for child in list(context.children):
            if child.start > context.length:
                lost += self._free(child, retain=False)
        for work in self._lines.pop(context, ()):
            self._leave_batch(work)
            work.stage = "ended"
            self._num_works -= 1
            lost.append(work)
        self._parked.pop(context, None)
        self.tree.release(context, retain=retain)
        return lost

    # ── decoding, lazily ────────────────────────────────────────────────────────────────────────────────────

    def _start_decoding(self, work: Work) -> None:
        """The request has `num_generated` tokens in the tree and goes on from here."""
        context = work.context
        self._decoding.start(work, self._output_tokens(work) - work.num_generated)
        self._watch_piece(work)
        for other in self._parked.get(context, ()):
            self._decoding.watch(context, child_towards(context, other.context).start - context.length)

    def _watch_piece(self, work: Work) -> None:
        """Stop when the next piece of an output is whole, where outputs are told in pieces."""
        if self._piece_tokens is not None:
            self._decoding.watch(work.context, self._piece_tokens - work.num_generated % self._piece_tokens)

    def _note_piece(self, context: Context, outcome: Outcome) -> None:
        work = self._decoding.works.get(context)
        if work is not None and self._piece_tokens and work.num_generated % self._piece_tokens == 0:
            outcome.grown.append(work)
            self._watch_piece(work)

    def _catch_up(self, context: Context) -> None:
        """Bring the tree up to date with a context that decodes."""
        if self._decoding.catch_up(context):
            self._wake_parked(context)

    def _wake_parked(self, context: Context) -> None:
        parked = self._parked.pop(context, None)
        for work in parked or ():
            if work.stage == "parked":
                self._enter(work)

    def _output_tokens(self, work: Work) -> int:
        """How long the output will be: what was asked for, or what the window leaves."""
        assert isinstance(work.request, GenerateRequest), "only generations have an output"
        room = self._context_tokens - (work.context.length - work.num_generated)
        return min(work.request.sampling.max_tokens, room)

    # ── strides ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def in_stride(self) -> bool:
        """Whether a stride was begun and has not ended."""
        return self._stride is not None

    def begin(self) -> float | None:
        """Plan the next stride and return its seconds; None when there is nothing to do.

        Requests that failed are in the outcome of the next `end`, also when this returns None.
        """
        assert self._stride is None, "one stride at a time"
        self._decoding.horizon = self._decoding.step + 1
        self._admit()
        duration_s = self._plan_prefill() if self._prefilling else None
        if duration_s is None and self._decoding.works:
            duration_s = self._plan_decode()
        return duration_s

    def cut(self, elapsed_s: float) -> float | None:
        """End the stride after the step that is under way, `elapsed_s` seconds after it began.

        Returns the stride's seconds in all now; None when that changes nothing.
        """
        stride = self._stride
        if stride is None or stride.steps is None or stride.num_steps == 1:
            return None
        num_steps = min(stride.steps.num_done(elapsed_s, stride.num_steps) + 1, stride.num_steps)
        if num_steps == stride.num_steps:
            return None
        stride.num_steps = num_steps
        self._decoding.horizon = self._decoding.step + num_steps
        return stride.steps.total_s(num_steps)

    def wants_cut(self) -> bool:
        """Whether the first in the queue could run, or a request waits for a certain step."""
        if self._stride is None or self._stride.num_steps <= 1:
            return False
        if self._decoding.is_watched_before(self._decoding.step + self._stride.num_steps):
            return True
        work = self._first_queued()
        if work is None or self.num_running >= self._max_batch:
            return False
        return self._decoding.num_reserved + self._blocks_wanted(work) <= self.tree.num_available

    def end(self) -> Outcome:
        """The stride is over: what it did."""
        stride, self._stride = self._stride, None
        outcome, self._outcome = self._outcome, Outcome()
        if stride is None:
            return outcome
        self.num_decoded += stride.num_steps * len(self._decoding)
        self.num_steps += stride.num_steps if stride.steps else 1
        ended, watched = self._decoding.advance(stride.num_steps)
        for work in ended:
            self._end(work)
            outcome.ended.append(work)
        for context in watched:
            self._catch_up(context)
            self._note_piece(context, outcome)
        for work in stride.grown:
            if work.stage == "prefilling":
                self._after_prompt(work, outcome)
        return outcome

    def _after_prompt(self, work: Work, outcome: Outcome) -> None:
        del self._prefilling[work]
        if isinstance(work.request, FillRequest):
            self._end(work)
            outcome.ended.append(work)
            return
        self.num_decoded += 1
        if work.num_generated >= self._output_tokens(work):
            self._end(work)
            outcome.ended.append(work)
            return
        if not work.begun:
            work.begun = True
            outcome.begun.append(work)
        self._start_decoding(work)

    def _plan_decode(self) -> float | None:
        """As many steps as nothing interrupts, for which there are blocks."""
        while self._decoding.works:
            num_steps = self._decoding.steps_with_blocks(self._decoding.steps_to_event())
            if num_steps:
                steps = self._cost.decode(
                    batch=len(self._decoding),
                    num_context_tokens=self._decoding.reading.num_context_tokens,
                    num_distinct_tokens=self._decoding.reading.num_distinct_tokens,
                )
                self._stride = _Stride(num_steps=num_steps, steps=steps)
                return steps.total_s(num_steps)
            self._give_way()
        return None

    def _plan_prefill(self) -> float | None:
        """One step: chunks of prompts in order of rank, and, where the two may meet, a token of each
        output.
        """
        advance = int(self._chunked and bool(self._decoding.works))
        while advance and self._decoding.blocks_at(self._decoding.step + advance) > self.tree.num_available:
            self._give_way()
            advance = int(bool(self._decoding.works))
        self._decoding.reserve(advance)
        stride = _Stride(num_steps=advance)
        left, num_pairs, kv_tokens = self._step_tokens, 0.0, 0.0
        for work in (
            sorted(self._prefilling, key=by_rank) if len(self._prefilling) > 1 else [*self._prefilling]
        ):
            if work.stage != "prefilling" or left <= 0:
                continue
            position = work.context.start + work.context.num_computed
            chunk = self._prefill(work, left, first=left == self._step_tokens)
            left -= chunk
            num_pairs += chunk * (position + chunk / 2)
            kv_tokens += position
            if self._has_prompt(work):
                self._complete(work, stride)
        if not (stride.grown or left < self._step_tokens):
            return None
        # Chunks may have made decoding requests give way.
        stride.num_steps = advance if self._decoding.works else 0
        num_tokens = float(self._step_tokens - left)
        num_decoding = len(self._decoding) if stride.num_steps else 0
        if num_decoding:
            reading = self._decoding.reading
            num_tokens += num_decoding
            num_pairs += reading.num_context_tokens
            kv_tokens += self._cost.kv_tokens_read(
                num_context_tokens=reading.num_context_tokens, num_distinct_tokens=reading.num_distinct_tokens
            )
        self._stride = stride
        return self._cost.step_s(
            num_tokens=num_tokens, num_pairs=num_pairs, kv_tokens=kv_tokens, num_decoding=num_decoding
        )

    def _has_prompt(self, work: Work) -> bool:
        return work.stage == "prefilling" and not work.num_pending and self.tree.is_whole(work.context)

    def _complete(self, work: Work, stride: _Stride) -> None:
        """A prompt will be complete after this step, which also gives a generation's next token."""
        if isinstance(work.request, GenerateRequest):
            if not work.context.length:
                empty = InvalidError("nothing to generate from: the context is empty", param="token_ids")
                self._fail(work, empty)
                return
            if not self._append(work, 1):
                return
            work.num_generated += 1
            if not self.tree.is_whole(work.context):
                return
        stride.grown.append(work)

    def _prefill(self, work: Work, budget: int, *, first: bool) -> int:
        """Compute what was dropped, then the request's own tokens, as far as the budget and memory go."""
        left = budget if self._chunked or not first else max(budget, self._whole(work))
        allowed = left
        if not self._chunked and self._whole(work) > left:
            return 0
        for gap in () if self.tree.is_whole(work.context) else self.tree.missing(work.context):
            until = min(gap.until, gap.context.num_computed + left)
            chunk = until - gap.context.num_computed
            wanted = -(-until // self.tree.block_tokens) - gap.context.num_blocks
            if not chunk or not self._make_room(work, max(0, wanted)):
                break
            self.tree.recompute(gap.context, until)
            left -= chunk
        chunk = min(left, work.num_pending)
        if chunk and work.stage == "prefilling" and self._append(work, chunk):
            left -= chunk
            work.num_pending -= chunk
        done = allowed - left
        work.num_prefilled += done
        self.num_prefilled += done
        return done

    def _whole(self, work: Work) -> int:
        gaps = self.tree.missing(work.context)
        return work.num_pending + sum(gap.until - gap.context.num_computed for gap in gaps)

    def _append(self, work: Work, count: int) -> bool:
        """Append tokens to a context that does not decode; False when the request had to give way."""
        context = work.context
        own = context.num_own
        wanted = -(-(own + count) // self.tree.block_tokens) - context.num_blocks
        if wanted > 0 and not self._make_room(work, wanted):
            return False
        added = self.tree.extend(context, count)
        assert added, "room was made for these tokens"
        if context in self._parked:
            self._wake_parked(context)
        return True

    # ── memory ──────────────────────────────────────────────────────────────────────────────────────────────

    def _first_queued(self) -> Work | None:
        while self._queue:
            rank, work = self._queue[0]
            if work.stage == "queued" and rank == work.rank:
                return work
            heapq.heappop(self._queue)
        return None

    def _admit(self) -> None:
        """Move requests from the queue into the batch, in order, while their prompts' blocks can be had."""
        promised: int | None = None
        while (work := self._first_queued()) is not None and self.num_running < self._max_batch:
            if promised is None:
                promised = self._decoding.num_reserved + sum(map(self._blocks_wanted, self._prefilling))
            error: ParrotError | None = self._too_long(work)
            wanted = self._blocks_wanted(work)
            if error is None and promised + wanted > self.tree.num_available:
                if self.num_running:
                    return
                if not self._clear_room(work, wanted):
                    error = self._exhausted(work)
            heapq.heappop(self._queue)
            if error is not None:
                self._fail(work, error)
                continue
            promised += wanted
            work.stage = "prefilling"
            self._prefilling[work] = None

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

    def _exhausted(self, work: Work) -> EngineError:
        needed = self.tree.blocks_alone(work.context, work.num_pending + 1)
        return EngineError(
            f"the request needs {needed} KV blocks, and the engine has {self.tree.num_blocks} in all",
            code="kv_exhausted",
            data={"num_blocks": needed, "limit_blocks": self.tree.num_blocks},
        )

    def _fail(self, work: Work, error: ParrotError) -> None:
        self._outcome.failed.append((work, error))
        self._end(work)

    def _make_room(self, work: Work, wanted: int) -> bool:
        """Have `wanted` blocks free beside those set aside, giving way step by step. False when the request
        was preempted itself, or fails because nothing is left to give way.
        """
        while self._decoding.num_reserved + wanted > self.tree.num_available:
            last = self._last_running()
            if last is not work:
                self._preempt(last)
            elif self.num_running > 1:
                self._preempt(work)
                return False
            elif not self._drop_one(work):
                self._fail(work, self._exhausted(work))
                return False
        if self._decoding.num_reserved + wanted > self.tree.num_free:
            self.tree.evict(self._decoding.num_reserved + wanted)
        return True

    def _give_way(self) -> None:
        """There is no block for a decoding request's next token: the last in rank steps back."""
        last = self._last_running()
        if self.num_running > 1:
            self._preempt(last)
        elif not self._drop_one(last):
            self._fail(last, self._exhausted(last))

    def _last_running(self) -> Work:
        return max((*self._prefilling, *self._decoding.works.values()), key=by_rank)

    def _preempt(self, work: Work) -> None:
        """Drop a running request's KV and put it back into the queue."""
        self.num_preemptions += 1
        self._leave_batch(work)
        self.tree.drop(work.context)
        work.stage = "queued"
        heapq.heappush(self._queue, (work.rank, work))

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
        keep[work.context] = work.context.num_own
        for node in sorted(self.tree.contexts(), key=lambda node: node.last_used):
            if node.num_users and self.tree.drop(node, keep=keep.get(node, 0)):
                return True
        return False
