"""The engine port on the event loop; the work is done by `step_loop`'s thread."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from parrot.engine.streams import ChunkStream, NoticeBoard
from parrot.engine.torch.config import TorchConfig
from parrot.engine.torch.startup import Parts, load_parts
from parrot.engine.torch.step_loop import Answer, Reply, Report, StepLoop
from parrot.engine.torch.tokenizer import TorchTokenizer
from parrot.errors import EngineError, ParrotError
from parrot.ports.clock import Clock, SystemClock
from parrot.ports.engine import (
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
    Progress,
)
from parrot.types.ids import ContextId, EngineId

logger = logging.getLogger(__name__)

LOAD_INTERVAL_S = 0.25
"""While busy, the load is told no more often than this."""


class TorchEngine:
    """`ports.engine.Engine` for one model in this process. Made by `start`."""

    def __init__(self, parts: Parts, *, engine_id: EngineId, clock: Clock) -> None:
        self._event_loop = asyncio.get_running_loop()
        self._clock = clock
        self._info = parts.info(engine_id)
        self._tokenizer = parts.tokenizer
        self._load = EngineLoad(num_free_blocks=self._info.num_blocks)
        self._load_told_s = float("-inf")
        self._board = NoticeBoard()
        self._lost: str | None = None
        self._frees: set[asyncio.Future[None]] = set()
        self._replies: set[Reply] = set()
        """Of the requests under way, those included that the step loop has not seen yet."""
        self._ended = asyncio.Event()
        self._closing = False
        self._grammars = parts.grammar_compiler()
        self._steps: StepLoop = parts.step_loop(self._report_from_thread, clock)
        self._steps.start()

    @classmethod
    async def start(
        cls, config: TorchConfig, *, engine_id: EngineId, progress: Progress, clock: Clock | None = None
    ) -> "TorchEngine":
        """Load a model and start its engine. `progress` is called on the event loop.

        Raises:
            ConfigError: `bad_model` or `bad_config`.
            EngineError: `engine_start_failed`.
        """
        event_loop = asyncio.get_running_loop()

        def tell(phase: str, fraction: float | None) -> None:
            event_loop.call_soon_threadsafe(progress, phase, fraction)

        parts = await load_parts(config, tell)
        return cls(parts, engine_id=engine_id, clock=clock or SystemClock())

    @property
    def info(self) -> EngineInfo:
        """What is fixed about it."""
        return self._info

    @property
    def tokenizer(self) -> TorchTokenizer:
        """Its model's tokenizer."""
        return self._tokenizer

    @property
    def num_leaks(self) -> int:
        """Times the engine was idle and owned blocks that are not cache; more than 0 is a bug."""
        return self._steps.num_leaks

    @property
    def num_contexts(self) -> int:
        """Contexts that have not been given up; exact while nothing is under way."""
        return self._steps.num_contexts

    def load(self) -> EngineLoad:
        """Its load after the last step."""
        return self._load

    async def fill(self, request: FillRequest) -> FillResult:
        """Compute the KV of more tokens; see `ports.engine.Engine`."""
        self._check_alive()
        done: asyncio.Future[FillResult] = self._event_loop.create_future()

        def reply(answer: Answer) -> None:
            if done.done():
                return
            if isinstance(answer, FillResult):
                done.set_result(answer)
            elif isinstance(answer, ParrotError):
                done.set_exception(answer)

        self._submit(request, reply)
        try:
            return await done
        except asyncio.CancelledError:
            self._steps.cancel(reply)
            raise
        finally:
            self._replies.discard(reply)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateChunk, None]:
        """Generate one output; see `ports.engine.Engine`. It is issued when the first chunk is asked for."""
        self._check_alive()
        chunks = ChunkStream()
        ended = False

        def reply(answer: Answer) -> None:
            nonlocal ended
            if isinstance(answer, GenerateChunk):
                ended = answer.end is not None
                chunks.put(answer)
            elif isinstance(answer, ParrotError):
                ended = True
                chunks.fail(answer)

        self._submit(request, reply)
        try:
            if request.grammar is not None:
                # The prompt is filled meanwhile.
                self._steps.bind(reply, await self._grammars.bind(request.grammar))
            while True:
                chunk = await chunks.get()
                yield chunk
                if chunk.end is not None:
                    return
        finally:
            self._replies.discard(reply)
            if not ended:
                self._steps.cancel(reply)

    async def free(self, context_ids: Sequence[ContextId], *, retain: bool = False) -> None:
        """Give up contexts; see `ports.engine.Engine`. Returns when it has taken effect."""
        if self._lost is not None:
            return
        done: asyncio.Future[None] = self._event_loop.create_future()

        def reply(_answer: Answer) -> None:
            if not done.done():
                done.set_result(None)

        self._frees.add(done)
        done.add_done_callback(self._frees.discard)
        self._steps.free(tuple(context_ids), retain=retain, reply=reply)
        await done

    async def appraise(self, values: Mapping[ContextId, int]) -> None:
        """Say what contexts are worth; see `ports.engine.Engine`."""
        self._steps.appraise(dict(values))

    def notices(self) -> AsyncIterator[Notice]:
        """What the engine has to tell; see `ports.engine.Engine`."""
        return self._board.read()

    async def close(self) -> None:
        """Stop all work and give back everything. Idempotent."""
        self._closing = True
        self._steps.stop()
        self._grammars.close()
        await self._ended.wait()
        self._steps.join()

    def _check_alive(self) -> None:
        if self._lost is not None or self._closing:
            raise EngineError(self._lost or "the engine is being closed", code="engine_lost")

    def _submit(self, request: FillRequest | GenerateRequest, reply: Reply) -> None:
        self._replies.add(reply)
        self._steps.submit(request, reply)

    def _report_from_thread(self, report: Report) -> None:
        try:
            self._event_loop.call_soon_threadsafe(self._take_report, report)
        except RuntimeError:
            # The event loop is closed: nobody is left to tell.
            self._steps.stop()

    def _take_report(self, report: Report) -> None:
        changed = report.load != self._load
        self._load = report.load
        for reply, answer in report.answers:
            reply(answer)
        if report.evicted:
            self._board.tell(Evicted(context_ids=report.evicted))
        now_s = self._clock.now_s()
        if changed and (report.idle or now_s - self._load_told_s >= LOAD_INTERVAL_S):
            self._load_told_s = now_s
            self._board.tell(LoadChanged(load=report.load))
        if report.lost is not None:
            self._end(report.lost)

    def _end(self, reason: str) -> None:
        self._lost = reason
        for reply in list(self._replies):
            reply(EngineError(reason, code="engine_lost"))
        for done in list(self._frees):
            done.set_result(None)
        if self._closing:
            self._board.close()
        else:
            logger.error("engine %s: %s", self._info.engine_id, reason)
            self._board.tell(Lost(reason=reason))
        self._ended.set()
