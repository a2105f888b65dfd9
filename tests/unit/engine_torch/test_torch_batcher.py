"""Who gets on in a step and who gives way, without a model."""

from dataclasses import dataclass, field

from parrot.engine.torch.batcher import Batcher, Request, Step
from parrot.engine.torch.contexts import ContextTree
from parrot.ports.engine import ContextRef
from parrot.types.ids import ContextId, RequestId

BLOCK = 4
NUM_BLOCKS = 10


@dataclass(kw_only=True)
class Loop:
    """A step loop that computes nothing; the token 0 is always the next."""

    max_batch: int = 4
    tree: ContextTree = field(default_factory=lambda: ContextTree(NUM_BLOCKS, BLOCK))
    left: dict[Request, int] = field(default_factory=dict)
    """Tokens that each request under way is still to generate."""
    failed: list[str] = field(default_factory=list)
    """Codes of the errors so far."""

    def __post_init__(self) -> None:
        self.batcher = Batcher(
            tree=self.tree, max_batch=self.max_batch, step_tokens=NUM_BLOCKS * BLOCK, context_tokens=1000
        )
        self.num_arrivals = 0

    def submit(
        self,
        context: int,
        num_tokens: int,
        *,
        max_tokens: int = 0,
        parent: tuple[int, int] | None = None,
        priority: int = 0,
    ) -> Request:
        ref = ContextRef(context_id=ContextId(parent[0]), num_tokens=parent[1]) if parent else None
        self.num_arrivals += 1
        request = Request(
            request_id=RequestId(str(self.num_arrivals)),
            context=self.tree.open(ContextId(context), ref),
            token_ids=(1,) * num_tokens,
            rank=(priority, self.num_arrivals),
            generates=max_tokens > 0,
        )
        self.left[request] = max_tokens
        self.batcher.submit(request)
        return request

    def step(self) -> Step:
        step = self.batcher.plan()
        self.failed += [error.code for _, error in step.failed]
        for request in (*step.finished, *(request for request, _ in step.failed)):
            del self.left[request]
        for chunk in step.chunks:
            request, context, wants_logits = chunk.request, chunk.request.context, chunk.wants_logits
            self.batcher.commit(chunk)
            if wants_logits:
                context.tokens.append(0)
                self.left[request] -= 1
            own_is_computed = context.num_computed == len(context.tokens)
            if not self.left[request] and (wants_logits or (chunk.context is context and own_is_computed)):
                self.batcher.end(request)
                del self.left[request]
        return step

    def run(self) -> None:
        while not self.step().is_empty:
            pass


def test_memory_that_a_waiting_fork_keeps_for_later_is_no_reason_to_refuse_others() -> None:
    loop = Loop()
    loop.submit(1, 7 * BLOCK)
    loop.run()
    fork = loop.submit(2, 1, max_tokens=1, parent=(1, 7 * BLOCK + 3))
    loop.submit(3, 5 * BLOCK)
    loop.run()
    assert list(loop.left) == [fork]
    assert loop.failed == []
    loop.submit(1, 3)
    loop.run()
    assert not loop.left
    assert loop.failed == []


def test_a_request_that_begins_within_a_step_is_no_reason_to_refuse_others() -> None:
    loop = Loop()
    loop.submit(1, 5 * BLOCK)
    loop.run()
    loop.submit(2, 0, parent=(1, 5 * BLOCK))
    loop.submit(2, 0)
    loop.submit(3, 6 * BLOCK)
    loop.run()
    assert not loop.left
    assert loop.failed == []


def test_requests_that_run_go_on_while_those_before_them_wait_for_memory() -> None:
    loop = Loop(max_batch=2)
    loop.submit(1, 0)
    loop.run()
    for i in range(3):
        loop.submit(2 + i, 3 * BLOCK, max_tokens=9, parent=(1, BLOCK))
    for i in range(2):
        loop.submit(5 + i, BLOCK, max_tokens=20)
    assert len(loop.step().chunks) == 2
    loop.submit(1, BLOCK)
    assert [len(loop.step().chunks) for _ in range(10)] == [2] * 10
    loop.run()
    assert not loop.left
    assert loop.failed == []


def test_cache_is_kept_while_all_of_it_would_not_make_room() -> None:
    loop = Loop()
    loop.submit(1, 2 * BLOCK)
    loop.run()
    loop.tree.release(loop.tree.open(ContextId(1), None), retain=True)
    loop.submit(2, 3 * BLOCK, max_tokens=4)
    loop.step()
    loop.submit(3, 7 * BLOCK)
    loop.step()
    assert loop.tree.num_cached == 2
    loop.run()
    assert not loop.left
