"""A simulated engine: `ports.Engine` whose steps take virtual time and compute nothing.

It keeps the accounts of real engines (contexts, blocks, batches, chunks, preemption, eviction), generates
outputs of exactly `max_tokens` tokens, and hands out what it generates as marks (`tokens.py`).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from parrot.engine.accounting import ContextTree
from parrot.engine.batching import context_gone
from parrot.engine.streams import NoticeBoard
from parrot.errors import ConfigError, EngineError, ParrotError
from parrot.ports.engine import (
    Capabilities,
    EngineInfo,
    EngineLoad,
    Evicted,
    FillRequest,
    FillResult,
    GenerateChunk,
    GenerateEnd,
    GenerateRequest,
    LoadChanged,
    Notice,
    Progress,
    StartEngine,
)
from parrot.sim.batch import Outcome, StrideBatch
from parrot.sim.cost import CostModel
from parrot.sim.decoding import Work
from parrot.sim.tokens import MarkTokenizer, mark, token_id
from parrot.types.ids import ContextId, EngineId

TELL_INTERVAL_S = 1.0
"""Virtual seconds between two notices of load."""
MODEL = "simulated"
"""The name under which calls ask for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedConfig:
    """A simulated engine."""

    cost: CostModel
    """What its steps cost."""
    num_blocks: int
    """KV blocks in all."""
    block_tokens: int = 16
    """Tokens in one KV block."""
    max_batch: int = 256
    """Requests in one step."""
    step_tokens: int = 2048
    """Prompt tokens computed in one step."""
    chunked: bool = True
    """Prompts are cut to fill a step, in which others decode. Without, a step computes whole prompts or
    decodes.
    """
    context_tokens: int = 16_384
    """The window: prompt and outputs of one context together."""
    piece_tokens: int | None = None
    """Outputs are told in pieces of so many tokens, for whoever follows them; None: in two, the first token
    and the rest, which is quicker to simulate."""
    description: str = ""
    """One line for people."""

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_tokens", "max_batch", "step_tokens", "context_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1", param=name)
        if self.piece_tokens is not None and self.piece_tokens < 1:
            raise ConfigError("piece_tokens must be at least 1", param="piece_tokens")


class SimulatedEngine:
    """`ports.Engine` in virtual time. Made inside a running virtual loop."""

    def __init__(self, config: SimulatedConfig, engine_id: EngineId) -> None:
        self._info = _info(config, engine_id)
        self._tokenizer = MarkTokenizer()
        self._tree = ContextTree(num_blocks=config.num_blocks, block_tokens=config.block_tokens)
        self._batch = StrideBatch(
            self._tree,
            config.cost,
            max_batch=config.max_batch,
            step_tokens=config.step_tokens,
            chunked=config.chunked,
            context_tokens=config.context_tokens,
            piece_tokens=config.piece_tokens,
        )
        self._waiters: dict[Work, asyncio.Future[bool]] = {}
        self._board = NoticeBoard()
        self._num_evictions = 0
        self._gone = False
        self._loop = asyncio.get_running_loop()
        self._start: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._began_at_s = 0.0
        self._teller: asyncio.TimerHandle | None = None

    @property
    def info(self) -> EngineInfo:
        """What is fixed about it."""
        return self._info

    @property
    def tokenizer(self) -> MarkTokenizer:
        """Its tokenizer."""
        return self._tokenizer

    @property
    def contexts(self) -> ContextTree:
        """Its accounts, to be looked at."""
        return self._tree

    def load(self) -> EngineLoad:
        """Its load at this moment."""
        batch, tree = self._batch, self._tree
        done = batch.num_done(self._loop.time() - self._began_at_s)
        return EngineLoad(
            num_running=batch.num_running,
            num_waiting=batch.num_waiting,
            num_owned_blocks=tree.num_owned,
            num_cached_blocks=tree.num_cached,
            num_free_blocks=tree.num_free,
            num_prefilled_tokens=batch.num_prefilled,
            num_decoded_tokens=batch.num_decoded + done * batch.num_decoding,
            num_preemptions=batch.num_preemptions,
            num_evictions=self._num_evictions,
            num_steps=batch.num_steps + done,
        )

    async def fill(self, request: FillRequest) -> FillResult:
        """Append tokens; see the port."""
        work = self._submit(request)
        try:
            await self._next(work)
            return FillResult(num_tokens=work.context.length, num_prefilled=work.num_prefilled)
        finally:
            self._leave(work)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateChunk, None]:
        """Append tokens and generate one output; see the port."""
        work = self._submit(request)
        seed = crc32(request.request_id.encode())
        try:
            num_told = 0
            while not await self._next(work):
                num_new, num_told = work.num_generated - num_told, work.num_generated
                yield GenerateChunk(text="", token_ids=(token_id(seed),) * num_new)
            count = work.num_generated
            yield GenerateChunk(
                text=mark(count, seed),
                token_ids=(token_id(seed),) * (count - num_told),
                end=GenerateEnd(
                    reason="length",
                    exact=True,
                    num_tokens=work.context.length,
                    num_prefilled=work.num_prefilled,
                ),
            )
        finally:
            self._leave(work)

    async def free(self, context_ids: Sequence[ContextId], *, retain: bool = False) -> None:
        """Give up contexts; see the port."""
        if self._gone:
            return
        for work in self._batch.free(context_ids, retain=retain):
            self._tell_work(work, context_gone(work.request.context_id))
        self._note_change()

    async def appraise(self, values: Mapping[ContextId, int]) -> None:
        """Say what contexts are worth; see the port."""
        for context_id, value in values.items():
            self._batch.tree.set_value(context_id, value)

    def notices(self) -> AsyncIterator[Notice]:
        """What it has to tell, for one reader."""
        return self._board.read()

    async def close(self) -> None:
        """Stop all work; requests under way raise `engine_lost`. Idempotent."""
        self._gone = True
        for handle in (self._start, self._timer, self._teller):
            if handle is not None:
                handle.cancel()
        for work in list(self._waiters):
            self._tell_work(work, EngineError("the engine was closed", code="engine_lost"))
        self._board.close()

    # ── requests ────────────────────────────────────────────────────────────────────────────────────────────

    def _submit(self, request: FillRequest | GenerateRequest) -> Work:
        if self._gone:
            raise EngineError("the engine was closed", code="engine_lost")
        work = self._batch.submit(request)
        self._waiters[work] = self._loop.create_future()
        self._note_change()
        return work

    async def _next(self, work: Work) -> bool:
        """Wait until a request's first token is there (False) or it has ended (True); raises its error."""
        ended = await self._waiters[work]
        if not ended:
            self._waiters[work] = self._loop.create_future()
            if work.stage == "ended":
                self._waiters[work].set_result(True)
        return ended

    def _leave(self, work: Work) -> None:
        waiter = self._waiters.pop(work)
        if waiter.done() and not waiter.cancelled():
            waiter.exception()
        if work.stage != "ended":
            self._batch.cancel(work)
            self._note_change()

    def _tell_work(self, work: Work, news: bool | ParrotError) -> None:
        waiter = self._waiters.get(work)
        if waiter is None or waiter.done():
            return
        if isinstance(news, ParrotError):
            waiter.set_exception(news)
        else:
            waiter.set_result(news)

    # ── strides ─────────────────────────────────────────────────────────────────────────────────────────────

    def _note_change(self) -> None:
        """Something came or went: begin a stride, or end the present one early when that helps."""
        if not self._batch.in_stride:
            if self._start is None:
                # What else happens at this instant takes part in the next step.
                self._start = self._loop.call_soon(self._begin)
        elif self._timer is not None and self._batch.wants_cut():
            duration_s = self._batch.cut(self._loop.time() - self._began_at_s)
            if duration_s is not None:
                self._timer.cancel()
                self._timer = self._loop.call_at(self._began_at_s + duration_s, self._end)
        self._tell_changes()

    def _begin(self) -> None:
        self._start = None
        while (duration_s := self._batch.begin()) is None:
            outcome = self._batch.end()
            self._deliver(outcome)
            if not outcome.failed:
                break
        else:
            self._began_at_s = self._loop.time()
            self._timer = self._loop.call_at(self._began_at_s + duration_s, self._end)
        self._tell_changes()

    def _end(self) -> None:
        self._timer = None
        self._deliver(self._batch.end())
        self._begin()

    def _deliver(self, outcome: Outcome) -> None:
        for work in (*outcome.begun, *outcome.grown):
            self._tell_work(work, False)
        for work in outcome.ended:
            self._tell_work(work, True)
        for work, error in outcome.failed:
            self._tell_work(work, error)

    def _tell_changes(self) -> None:
        evicted = self._tree.take_evicted()
        if evicted:
            self._num_evictions += len(evicted)
            self._board.tell(Evicted(context_ids=evicted))
        if self._teller is None and not self._gone:
            self._teller = self._loop.call_later(TELL_INTERVAL_S, self._tell_load)

    def _tell_load(self) -> None:
        self._teller = None
        self._board.tell(LoadChanged(load=self.load()))


def start_simulated(
    config: SimulatedConfig, engine_id: EngineId, on_start: Callable[[SimulatedEngine], None]
) -> StartEngine:
    """How the service starts a simulated engine: at once; `on_start` is told the engine."""

    async def start(progress: Progress) -> SimulatedEngine:
        progress("ready", 1.0)
        engine = SimulatedEngine(config, engine_id)
        on_start(engine)
        return engine

    return start


def _info(config: SimulatedConfig, engine_id: EngineId) -> EngineInfo:
    return EngineInfo(
        engine_id=engine_id,
        kind="simulated",
        model=MODEL,
        model_hash=MODEL,
        device="none",
        dtype="none",
        num_parameters=0,
        context_tokens=config.context_tokens,
        block_tokens=config.block_tokens,
        num_blocks=config.num_blocks,
        block_bytes=int(config.block_tokens * config.cost.kv_bytes),
        max_batch=config.max_batch,
        capabilities=Capabilities(structured_output=True),
        description=config.description,
    )
