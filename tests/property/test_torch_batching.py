"""The torch engine's batcher without a model: random traffic in a tiny pool ends, and nothing leaks."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from parrot.engine.torch.batcher import Batcher, Chunk, Request, Step
from parrot.engine.torch.contexts import ContextTree
from parrot.errors import EngineError, ParrotError
from parrot.ports.engine import ContextRef
from parrot.types.ids import ContextId, RequestId

BLOCK = 4
NUM_BLOCKS = 10
WINDOW = 48
MAX_BATCH = 3
NAMES = st.integers(1, 7)
MAX_STEPS = 2000


class BatcherMachine(RuleBasedStateMachine):
    """A step loop that computes nothing: each context's tokens are its own request numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = ContextTree(NUM_BLOCKS, BLOCK)
        self.batcher = Batcher(tree=self.tree, max_batch=MAX_BATCH, step_tokens=9, context_tokens=WINDOW)
        self.left: dict[Request, int] = {}
        """Tokens that each request under way is still to generate."""
        self.num_arrivals = 0

    @rule(
        name=NAMES,
        num_tokens=st.integers(0, 30),
        max_tokens=st.integers(0, 12),
        parent=st.none() | st.tuples(NAMES, st.integers(0, 30)),
        priority=st.integers(0, 1),
        held=st.booleans(),
    )
    def submit(
        self,
        name: int,
        num_tokens: int,
        max_tokens: int,
        parent: tuple[int, int] | None,
        priority: int,
        held: bool,
    ) -> None:
        ref = ContextRef(context_id=ContextId(parent[0]), num_tokens=parent[1]) if parent else None
        try:
            context = self.tree.open(ContextId(name), ref)
        except EngineError:
            return
        self.num_arrivals += 1
        request = Request(
            request_id=RequestId(str(self.num_arrivals)),
            context=context,
            token_ids=(self.num_arrivals,) * num_tokens,
            rank=(priority, self.num_arrivals),
            generates=max_tokens > 0,
            held=held and max_tokens > 0,
        )
        self.left[request] = max_tokens
        self.batcher.submit(request)

    @rule(data=st.data())
    @precondition(lambda self: self.left)
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(list(self.left)))
        self.batcher.stop(request)
        del self.left[request]

    @rule(data=st.data())
    @precondition(lambda self: any(request.held for request in self.left))
    def let_go(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([one for one in self.left if one.held])).held = False

    @rule(name=NAMES, retain=st.booleans())
    def free(self, name: int, retain: bool) -> None:
        context = self.tree.find(ContextId(name))
        if context is not None:
            for request in self.batcher.requests_of(context)[::-1]:
                self.batcher.stop(request)
                del self.left[request]
            self.tree.release(context, retain=retain)

    @rule()
    def step(self) -> None:
        self._step()

    def _step(self) -> Step:
        step = self.batcher.plan()
        for request, error in step.failed:
            self._check_error(request, error)
            del self.left[request]
        for request in step.finished:
            del self.left[request]
        assert len(step.chunks) <= MAX_BATCH
        assert len({chunk.request for chunk in step.chunks}) == len(step.chunks)
        for chunk in step.chunks:
            self._check_chunk(chunk)
        for chunk in step.chunks:
            self._compute(chunk)
        return step

    def _check_error(self, request: Request, error: ParrotError) -> None:
        if error.code != "kv_exhausted":
            return
        lineage = [count for _, count in request.lineage]
        own = len(request.context.tokens) + len(request.token_ids) + 1
        assert sum(map(self.tree.blocks_for, [*lineage, own])) > NUM_BLOCKS

    def _check_chunk(self, chunk: Chunk) -> None:
        context = chunk.context
        assert all(node.num_computed >= count for node, count in context.lineage())
        assert context.num_computed >= (chunk.end if chunk.probe else chunk.first)
        assert self.tree.blocks_for(chunk.end) <= context.num_blocks

    def _compute(self, chunk: Chunk) -> None:
        request, context = chunk.request, chunk.request.context
        wants_logits = chunk.wants_logits
        self.batcher.commit(chunk)
        if chunk.context is context and not request.generates and context.num_computed == len(context.tokens):
            self.batcher.end(request)
            del self.left[request]
        elif wants_logits:
            assert not request.held
            context.tokens.append(0)
            self.left[request] -= 1
            if not self.left[request] or context.num_tokens >= WINDOW:
                self.batcher.end(request)
                del self.left[request]

    @invariant()
    def every_block_is_owned_cached_or_free(self) -> None:
        tree = self.tree
        assert tree.num_owned + tree.num_cached + tree.num_free == NUM_BLOCKS
        assert tree.num_owned == sum(node.num_blocks for node in tree.nodes_in_use())
        assert self.batcher.num_requests == len(self.left) - len(self.batcher._failed)
        if not tree.num_live:
            assert tree.num_owned == 0

    def teardown(self) -> None:
        for request in self.left:
            request.held = False
        for _ in range(MAX_STEPS):
            if self._step().is_empty:
                break
        else:
            raise AssertionError("it goes on for ever")
        for request in self.left:
            assert self._waits_for_what_nobody_fills(request)
        for name in range(1, 8):
            self.free(name, retain=False)
        assert not self.left
        assert self.tree.num_owned == 0

    def _waits_for_what_nobody_fills(self, request: Request) -> bool:
        if self.batcher.requests_of(request.context)[0] is not request:
            return self._waits_for_what_nobody_fills(self.batcher.requests_of(request.context)[0])
        return any(
            len(node.tokens) < count
            and (not (queue := self.batcher.requests_of(node)) or self._waits_for_what_nobody_fills(queue[0]))
            for node, count in request.lineage
        )


BatcherMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestBatcher = BatcherMachine.TestCase
