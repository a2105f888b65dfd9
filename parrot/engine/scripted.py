"""The scripted engine: deterministic answers at a stated cost, with true batching and KV accounting.

For tests, for demonstrations and for the development of clients (`--engine scripted`). Its text follows from
the prompt and the seed alone, so two runs of one application give the same text whatever was shared, batched
or preempted on the way.
"""

import asyncio
import hashlib
import logging
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from msgspec.structs import replace

from parrot.engine.accounting import ContextTree
from parrot.engine.batching import Batcher, Step, Work, context_gone
from parrot.engine.output_text import OutputText
from parrot.engine.scripted_config import FaultKind, ScriptedAnswer, ScriptedConfig, ScriptedFault
from parrot.engine.scripted_text import ScriptedText, scripted_logprob
from parrot.engine.scripted_tokenizer import EOS_IDS, ScriptedTokenizer
from parrot.engine.streams import ChunkStream, NoticeBoard
from parrot.errors import EngineError, InvalidError, ParrotError, fault_trace
from parrot.ports.clock import Clock, SystemClock
from parrot.ports.engine import (
    Capabilities,
    EngineInfo,
    EngineLoad,
    Evicted,
    FillRequest,
    FillResult,
    GenerateChunk,
    GenerateRequest,
    LoadChanged,
    Lost,
    Notice,
)
from parrot.types.ids import CallId, ContextId, EngineId

__all__ = ["ScriptedAnswer", "ScriptedConfig", "ScriptedEngine", "ScriptedFault", "ScriptedTokenizer"]

logger = logging.getLogger(__name__)

_TELL_INTERVAL_S = 0.2
_FREE_TOKENS_PER_STEP = 32
_EXIT_STATUS = 86
_MAX_COUNTED_CALLS = 100_000
_BYTES_PER_TOKEN = 1024


class _Output:
    """One generation: its plan of tokens, and the text they have become."""

    def __init__(self, plan: Iterator[int], request: GenerateRequest, tokenizer: ScriptedTokenizer) -> None:
        sampling = request.sampling
        self._plan = plan
        self._bytes = tokenizer.token_bytes
        self._min_tokens = sampling.min_tokens
        self._ignore_eos = sampling.ignore_eos
        self._looks_for_stop = bool(sampling.stop)
        self._text = OutputText(stop=sampling.stop, min_tokens=sampling.min_tokens)
        self._num_tokens = 0

    def advance(self, limit: int) -> tuple[tuple[int, ...], str, Literal["more", "stop"]]:
        token_ids: list[int] = []
        pieces: list[str] = []
        ended = False
        while len(token_ids) < limit and not ended:
            token_id = next(self._plan, None)
            if token_id is None:
                ended = True
            elif token_id in EOS_IDS:
                ended = not self._ignore_eos and self._num_tokens + len(token_ids) >= self._min_tokens
            else:
                token_ids.append(token_id)
                if self._looks_for_stop:
                    pieces.append(self._text.feed(self._bytes(token_id)))
                    ended = self._text.stopped
        if not self._looks_for_stop:
            pieces.append(self._text.feed(b"".join(map(self._bytes, token_ids))))
        self._num_tokens += len(token_ids)
        return tuple(token_ids), "".join(pieces), "stop" if ended else "more"

    def finish(self) -> tuple[str, bool]:
        return self._text.finish()


class _Faults:
    """Which requests a fault strikes, and how often each has struck."""

    def __init__(self, faults: Sequence[ScriptedFault], tokenizer: ScriptedTokenizer) -> None:
        self._faults = faults
        self._tokenizer = tokenizer
        self._num_fitting = [0] * len(faults)

    def choose(self, work: Work) -> ScriptedFault | None:
        """The fault that will strike a request, decided once, when it is first worked on."""
        kind = "generate" if isinstance(work.request, GenerateRequest) else "fill"
        candidates = [i for i, fault in enumerate(self._faults) if fault.on == kind]
        if not candidates:
            return None
        seen = [token for piece in work.context.prompt() for token in piece]
        pending = work.request.token_ids[work.num_appended :]
        text = self._tokenizer.decode((*seen, *pending))
        for i in candidates:
            fault = self._faults[i]
            if fault.marker not in text:
                continue
            order = self._num_fitting[i] - fault.skip
            self._num_fitting[i] += 1
            if order >= 0 and (fault.times is None or order < fault.times):
                return fault
        return None


class ScriptedEngine:
    """`ports.Engine` without a model. Made inside a running event loop, whose tasks it uses.

    `executions` counts, for each call, the attempts that reached a step: the figure behind "finished work is
    not paid twice". A clock that is not the system's makes it run in simulated time.
    """

    def __init__(self, config: ScriptedConfig, *, engine_id: EngineId, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._tokenizer = ScriptedTokenizer()
        self._text = ScriptedText(config, self._tokenizer)
        self._info = _info(config, engine_id)
        self._tree = ContextTree(num_blocks=config.num_blocks, block_tokens=config.block_tokens)
        free = config.decode_step_s == 0
        self._batcher = Batcher(
            self._tree,
            max_batch=config.max_batch,
            step_tokens=config.step_tokens,
            tokens_per_step=config.tokens_per_step or (_FREE_TOKENS_PER_STEP if free else 1),
            context_tokens=config.context_tokens,
            begin=self._begin,
        )
        self._fills: dict[Work, asyncio.Future[FillResult]] = {}
        self._streams: dict[Work, ChunkStream] = {}
        self._faults = _Faults(config.faults, self._tokenizer)
        self._struck: dict[Work, ScriptedFault | None] = {}
        self._executions: dict[CallId, int] = {}
        self._attempts: dict[CallId, int] = {}
        self._counts = {"prefilled": 0, "decoded": 0, "evictions": 0, "steps": 0}
        self._board = NoticeBoard()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._gone: str | None = None
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()), loop.create_task(self._tell_loads())]
        for task in self._tasks:
            task.add_done_callback(self._task_ended)

    @property
    def info(self) -> EngineInfo:
        """What is fixed about it."""
        return self._info

    @property
    def tokenizer(self) -> ScriptedTokenizer:
        """Its tokenizer."""
        return self._tokenizer

    @property
    def executions(self) -> Mapping[CallId, int]:
        """For each call, how many of its attempts reached a step here; the last 100,000 calls."""
        return MappingProxyType(self._executions)

    def load(self) -> EngineLoad:
        """Its load at this moment."""
        return EngineLoad(
            num_running=self._batcher.num_running,
            num_waiting=self._batcher.num_waiting,
            num_owned_blocks=self._tree.num_owned,
            num_cached_blocks=self._tree.num_cached,
            num_free_blocks=self._tree.num_free,
            num_prefilled_tokens=self._counts["prefilled"],
            num_decoded_tokens=self._counts["decoded"],
            num_preemptions=self._batcher.num_preemptions,
            num_evictions=self._counts["evictions"],
            num_steps=self._counts["steps"],
        )

    async def fill(self, request: FillRequest) -> FillResult:
        """Append tokens; see the port."""
        work = self._submit(request)
        filled: asyncio.Future[FillResult] = asyncio.get_running_loop().create_future()
        self._fills[work] = filled
        try:
            return await filled
        finally:
            del self._fills[work]
            self._leave(work)
            if not filled.cancelled():
                filled.exception()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateChunk, None]:
        """Append tokens and generate one output; see the port."""
        work = self._submit(request)
        stream = self._streams[work] = ChunkStream()
        try:
            while True:
                chunk = await stream.get()
                yield chunk
                if chunk.end is not None:
                    return
        finally:
            del self._streams[work]
            self._leave(work)

    async def free(self, context_ids: Sequence[ContextId], *, retain: bool = False) -> None:
        """Give up contexts; see the port."""
        if self._gone is not None:
            return
        for work in self._batcher.free(context_ids, retain=retain):
            self._fail(work, context_gone(work.request.context_id))
        self._note_change()

    async def appraise(self, values: Mapping[ContextId, int]) -> None:
        """Say what contexts are worth; see the port."""
        for context_id, value in values.items():
            self._batcher.tree.set_value(context_id, value)

    def notices(self) -> AsyncIterator[Notice]:
        """What it has to tell, for one reader."""
        return self._board.read()

    async def close(self) -> None:
        """Stop all work; requests under way raise `engine_lost`. Idempotent."""
        self._end("the engine was closed")
        self._board.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _submit(self, request: FillRequest | GenerateRequest) -> Work:
        if self._gone is not None:
            raise EngineError(self._gone, code="engine_lost")
        ids = request.token_ids
        if ids and not (min(ids) >= 0 and max(ids) < self._tokenizer.vocab_size):
            raise InvalidError("a token id is not in the vocabulary", param="token_ids")
        if isinstance(request, GenerateRequest) and request.sampling.max_tokens < 1:
            raise InvalidError("max_tokens must be at least 1", param="sampling.max_tokens")
        work = self._batcher.submit(request)
        self._note_change()
        return work

    def _leave(self, work: Work) -> None:
        """A caller went away, because its request ended or because it was cancelled."""
        self._struck.pop(work, None)
        if work.stage != "ended":
            self._batcher.cancel(work)
            self._note_change()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._batcher.can_step:
                step = self._batcher.step()
                await self._spend(step)
                self._deliver(step)

    async def _spend(self, step: Step) -> None:
        """Let the step's cost pass."""
        cost_s = self._config.decode_step_s if step.num_decoded else 0.0
        if self._config.prefill_tokens_per_s:
            cost_s += step.num_prefilled / self._config.prefill_tokens_per_s
        for work in step.stepped:
            cost_s += await self._strike(work, step)
        if cost_s:
            await self._clock.sleep(cost_s)
        else:
            await asyncio.sleep(0)

    def _deliver(self, step: Step) -> None:
        self._counts["steps"] += 1
        self._counts["prefilled"] += step.num_prefilled
        self._counts["decoded"] += step.num_decoded
        for work, result in step.filled:
            filled = self._fills.get(work)
            if filled is not None and not filled.done():
                filled.set_result(result)
        for work, chunk in step.chunks:
            stream = self._streams.get(work)
            if stream is not None:
                stream.put(_with_logprobs(work.request, chunk))
        for work, error in step.failed:
            self._fail(work, error)
        self._note_change()

    def _fail(self, work: Work, error: ParrotError) -> None:
        filled = self._fills.get(work)
        if filled is not None and not filled.done():
            filled.set_exception(error)
        stream = self._streams.get(work)
        if stream is not None:
            stream.fail(error)

    def _begin(self, work: Work) -> _Output:
        """The prompt of a generation is complete: plan its output."""
        request = work.request
        assert isinstance(request, GenerateRequest), "only generations have an output"
        if not work.context.length:
            raise InvalidError("nothing to generate from: the context is empty", param="token_ids")
        plan = self._text.plan(work.context.prompt(), request.sampling, request.grammar)
        return _Output(plan, request, self._tokenizer)

    async def _strike(self, work: Work, step: Step) -> float:
        """Count the execution, let a scripted fault do its damage; returns the seconds that it adds."""
        if work not in self._struck:
            self._count_execution(work)
            self._struck[work] = self._faults.choose(work)
        fault = self._struck[work]
        if fault is None:
            return 0.0
        if fault.kind == "slow":
            return fault.delay_s
        if isinstance(work.request, GenerateRequest) and (
            work.output is None or work.num_generated < fault.after_tokens
        ):
            return 0.0
        await self._do_damage(fault.kind, work, step)
        return 0.0

    async def _do_damage(self, kind: FaultKind, work: Work, step: Step) -> None:
        match kind:
            case "hang":
                await asyncio.Event().wait()
            case "freeze":
                threading.Event().wait()
            case "exit":
                os._exit(_EXIT_STATUS)
            case _:
                code = "engine_bad_output" if kind == "bad_output" else "engine_failed"
                step.filled = [entry for entry in step.filled if entry[0] is not work]
                step.chunks = [entry for entry in step.chunks if entry[0] is not work]
                step.failed.append((work, EngineError("a scripted fault", code=code)))
                self._batcher.cancel(work)

    def _count_execution(self, work: Work) -> None:
        call_id, attempt = work.request.call_id, work.request.attempt
        if call_id is None or self._attempts.get(call_id) == attempt:
            return
        if len(self._executions) >= _MAX_COUNTED_CALLS and call_id not in self._executions:
            oldest = next(iter(self._executions))
            del self._executions[oldest], self._attempts[oldest]
        self._executions[call_id] = self._executions.get(call_id, 0) + 1
        self._attempts[call_id] = attempt

    def _note_change(self) -> None:
        """Something changed: go on working, tell it, and check the accounts when nothing is in use."""
        self._wake.set()
        self._changed.set()
        evicted = self._tree.take_evicted()
        if evicted:
            self._counts["evictions"] += len(evicted)
            self._board.tell(Evicted(context_ids=evicted))
        if self._tree.num_held == 0 and self._tree.num_owned:
            logger.error(
                "engine %s leaks: no context is in use, %d KV blocks are owned: %s",
                self._info.engine_id,
                self._tree.num_owned,
                "; ".join(self._tree.audit()),
            )

    async def _tell_loads(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._board.tell(LoadChanged(load=self.load()))
            await self._clock.sleep(_TELL_INTERVAL_S)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A task of the engine ended by itself: a bug of ours, after which nothing works any more."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("engine %s failed\n%s", self._info.engine_id, fault_trace(error))
            reason = f"a fault of the engine ({type(error).__name__}); its log has more"
            self._board.tell(Lost(reason=reason))
            self._end(reason)

    def _end(self, reason: str) -> None:
        if self._gone is None:
            self._gone = reason
            for work in [*self._fills, *self._streams]:
                self._fail(work, EngineError(reason, code="engine_lost"))


def _with_logprobs(request: FillRequest | GenerateRequest, chunk: GenerateChunk) -> GenerateChunk:
    """The chunk with made-up likelihoods, if its request asks for any."""
    num_top = request.sampling.logprobs if isinstance(request, GenerateRequest) else None
    if num_top is None:
        return chunk
    return replace(chunk, logprobs=tuple(scripted_logprob(i, num_top) for i in chunk.token_ids))


def _info(config: ScriptedConfig, engine_id: EngineId) -> EngineInfo:
    answers = [(rule.pattern, rule.answer, rule.regex) for rule in config.answers]
    says = repr((config.seed, config.answer_words, config.answer_tail_chars, answers))
    cost = "free" if not (config.prefill_tokens_per_s or config.decode_step_s) else "at a stated cost"
    return EngineInfo(
        engine_id=engine_id,
        kind="scripted",
        model=config.served_name,
        model_hash="scripted-" + hashlib.blake2b(says.encode(), digest_size=8).hexdigest(),
        device="none",
        dtype="none",
        num_parameters=0,
        context_tokens=config.context_tokens,
        block_tokens=config.block_tokens,
        num_blocks=config.num_blocks,
        block_bytes=config.block_tokens * _BYTES_PER_TOKEN,
        max_batch=config.max_batch,
        capabilities=Capabilities(structured_output=True),
        description=f"made-up words, {cost}",
    )
