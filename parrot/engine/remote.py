"""An engine in another process, seen from the service: `ports.Engine` over a socket.

The process is watched: when its socket closes it is lost; when it gives no sign of life, or has requests in
its batch and takes no step, it is killed and lost. Whatever was under way then raises `engine_lost`.
"""

import asyncio
import logging
import select
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass

from parrot.engine.endings import count_oom_kills, is_stopped, was_killed_by_others
from parrot.engine.messages import (
    Appraise,
    Cancel,
    Chunks,
    Close,
    ContextsEvicted,
    Failed,
    Fill,
    Filled,
    Free,
    FromEngine,
    Generate,
    Gone,
    Link,
    Load,
    Ping,
    Start,
    Started,
    Starting,
    failure_error,
)
from parrot.engine.streams import ChunkStream, NoticeBoard
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
    Tokenizer,
)
from parrot.types.ids import ContextId

logger = logging.getLogger(__name__)

_STDERR = 2
_EXIT_GRACE_S = 5.0
_BURIAL_GRACE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """When an engine's process counts as dead."""

    ping_interval_s: float = 2.0
    """It is asked for a sign of life this often."""
    dead_after_s: float = 15.0
    """It is killed when it has given none for so long. Time in which the service itself did not run does
    not count."""
    stuck_after_s: float = 30.0
    """It is killed when it has had requests in its batch for so long and taken no step."""


class EngineProcess:
    """The process, the socket to it, and the state of what was asked over it."""

    def __init__(self, *, clock: Clock, liveness: Liveness, progress: Progress) -> None:
        self.load = EngineLoad()
        self.board = NoticeBoard()
        self.lost: str | None = None
        self._clock = clock
        self._liveness = liveness
        self._progress = progress
        self._process: Process | None = None
        self._link: Link[FromEngine] = Link(FromEngine, on_message=self._receive, on_end=self._ended)
        self._started: asyncio.Future[EngineInfo] = asyncio.get_running_loop().create_future()
        self._fills: dict[int, asyncio.Future[FillResult]] = {}
        self._streams: dict[int, ChunkStream] = {}
        self._number = 0
        self._silent_s = 0.0
        self._stuck_s = 0.0
        self._num_steps = -1
        self._reason: str | None = None
        self._outside = False
        """Somebody stopped or killed the process: nothing that it worked on did."""
        self._num_oom_kills = count_oom_kills()
        self._phase = "starting"
        self._hangup = select.poll()
        """Tells at once when the other end of the socket is closed."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, message: Start) -> EngineInfo:
        """Start the process and wait until its engine is ready.

        Raises `EngineError` (`engine_start_failed`) or what the process says it failed with.
        """
        loop = asyncio.get_running_loop()
        try:
            here, there = socket.socketpair()
        except OSError as error:
            reason = f"the engine's process cannot be started: {error}"
            raise EngineError(reason, code="engine_start_failed") from error
        here.setblocking(False)
        try:
            with there:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "parrot.engine.worker", "--fd", str(there.fileno())),
                    pass_fds=(there.fileno(),),
                    stdin=DEVNULL,
                    stdout=_STDERR,
                )
        except BaseException as error:
            here.close()
            if not isinstance(error, OSError):
                raise
            reason = f"the engine's process cannot be started: {error}"
            raise EngineError(reason, code="engine_start_failed") from error
        self._hangup.register(here, 0)
        await loop.create_connection(lambda: self._link, sock=here)
        self._link.send(message)
        try:
            info = await self._started
        except BaseException:
            await self.close()
            raise
        if not self.load.num_steps:
            self.load = EngineLoad(num_free_blocks=info.num_blocks)
        self._keep(self._watch())
        return info

    async def fill(self, request: FillRequest) -> FillResult:
        """Send a fill and wait for its end."""
        number = self._next_number()
        filled: asyncio.Future[FillResult] = asyncio.get_running_loop().create_future()
        self._link.send(Fill(number=number, request=request))
        self._fills[number] = filled
        try:
            return await filled
        finally:
            del self._fills[number]
            if not filled.done() or filled.cancelled():
                self._link.send(Cancel(number=number))
            else:
                filled.exception()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateChunk, None]:
        """Send a generation and hand on its chunks."""
        number = self._next_number()
        stream = ChunkStream()
        self._link.send(Generate(number=number, request=request))
        self._streams[number] = stream
        ended = False
        try:
            while not ended:
                chunk = await stream.get()
                ended = chunk.end is not None
                yield chunk
        finally:
            del self._streams[number]
            if not ended:
                self._link.send(Cancel(number=number))

    def free(self, context_ids: Sequence[ContextId], *, retain: bool) -> None:
        """Send word that contexts are given up; what is sent later comes later."""
        if context_ids and self.lost is None:
            self._link.send(Free(context_ids=tuple(context_ids), retain=retain))

    def appraise(self, values: Mapping[ContextId, int]) -> None:
        """Send what contexts are worth."""
        if values and self.lost is None:
            self._link.send(Appraise(values=dict(values)))

    async def close(self) -> None:
        """End the process, by force if it does not go."""
        self._fail_all("the engine was closed")
        self.board.close()
        watching = [task for task in self._tasks if task is not asyncio.current_task()]
        self._link.send(Close())
        self._link.flush()
        if self._process is not None:
            try:
                async with asyncio.timeout(_EXIT_GRACE_S):
                    await self._process.wait()
            except TimeoutError:
                self._kill()
                await self._process.wait()
            self._link.close()
            await self._link.closed
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)

    def _next_number(self) -> int:
        """The number of a request that is about to be sent.

        Raises `EngineError` (`engine_lost`) when the process has ended, even if that is not known here yet;
        the request was then not `delivered`, and cannot be what ended it.
        """
        if self.lost is not None or not self._link.is_open or self._hangup.poll(0):
            reason = self.lost or "the engine's process has ended"
            raise EngineError(reason, code="engine_lost", data={"delivered": False})
        self._number += 1
        return self._number

    def _receive(self, message: FromEngine) -> None:
        self._silent_s = 0.0
        match message:
            case Chunks(chunks=chunks):
                for chunk in chunks:
                    stream = self._streams.get(chunk.number)
                    if stream is not None:
                        stream.put(chunk.chunk())
            case Filled(number=number, result=result):
                filled = self._fills.get(number)
                if filled is not None and not filled.done():
                    filled.set_result(result)
            case Failed(number=number):
                self._fail(number, failure_error(message))
            case Load() | ContextsEvicted() | Gone():
                self._take_notice(message)
            case Starting(phase=phase, fraction=fraction):
                self._phase = phase
                self._progress(phase, fraction)
            case Started(info=info):
                if not self._started.done():
                    self._started.set_result(info)

    def _take_notice(self, message: Load | ContextsEvicted | Gone) -> None:
        match message:
            case Load(load=load, pong=pong):
                self._take_load(load, pong=pong)
            case ContextsEvicted(context_ids=context_ids):
                self.board.tell(Evicted(context_ids=context_ids))
            case Gone(reason=reason):
                self._condemn(reason)

    def _take_load(self, load: EngineLoad, *, pong: bool) -> None:
        if load != self.load:
            self.load = load
            self.board.tell(LoadChanged(load=load))
        if pong:
            moves = load.num_running == 0 or load.num_steps != self._num_steps
            self._stuck_s = 0.0 if moves else self._stuck_s + self._liveness.ping_interval_s
            self._num_steps = load.num_steps

    async def _watch(self) -> None:
        """Ask for a sign of life again and again. Silence is counted in rounds of our own, so that a
        service that was stopped or slow itself does not take its engines for dead.
        """
        interval_s = self._liveness.ping_interval_s
        while self.lost is None:
            self._link.send(Ping())
            await self._clock.sleep(interval_s)
            self._silent_s += interval_s
            if self._silent_s > self._liveness.dead_after_s:
                self._outside = self._process is not None and is_stopped(self._process.pid)
                self._condemn(f"no sign of life for {self._liveness.dead_after_s:g} s")
                return
            if self._stuck_s > self._liveness.stuck_after_s:
                self._condemn(f"requests in its batch and no step for {self._liveness.stuck_after_s:g} s")
                return

    def _condemn(self, reason: str) -> None:
        """Kill the process for a reason; the end of the socket does the rest."""
        self._reason = self._reason or reason
        self._kill()
        self._link.abort(reason)

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _ended(self, reason: str | None) -> None:
        """The socket is closed: whatever the cause, the engine is of no use any more."""
        self._keep(self._bury(self._reason or reason))

    async def _bury(self, reason: str | None) -> None:
        status: int | None = None
        if self._process is not None:
            try:
                async with asyncio.timeout(_BURIAL_GRACE_S):
                    status = await self._process.wait()
            except TimeoutError:
                self._kill()
                await self._process.wait()
            else:
                if self._reason is None:
                    self._outside = was_killed_by_others(status, oom_kills_before=self._num_oom_kills)
        self._lose(reason or _describe(status))

    def _lose(self, reason: str) -> None:
        if not self._started.done():
            text = f"{reason} while it was {self._phase}"
            self._started.set_exception(EngineError(text, code="engine_start_failed"))
        elif self.lost is None:
            logger.error("engine lost: %s", reason)
            self.board.tell(Lost(reason=reason, outside=self._outside))
        self._fail_all(reason)

    def _fail_all(self, reason: str) -> None:
        if self.lost is None:
            self.lost = reason
            data = {"outside": True} if self._outside else {}
            for number in [*self._fills, *self._streams]:
                self._fail(number, EngineError(reason, code="engine_lost", data=data))

    def _fail(self, number: int | None, error: ParrotError) -> None:
        if number is None:
            if not self._started.done():
                self._started.set_exception(error)
            return
        filled = self._fills.get(number)
        if filled is not None and not filled.done():
            filled.set_exception(error)
        stream = self._streams.get(number)
        if stream is not None:
            stream.fail(error)

    def _keep(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class RemoteEngine:
    """`ports.Engine` for an engine in a process of its own. Made by `start_remote`."""

    def __init__(self, process: EngineProcess, *, info: EngineInfo, tokenizer: Tokenizer) -> None:
        self._process = process
        self._info = info
        self._tokenizer = tokenizer

    @property
    def info(self) -> EngineInfo:
        """What is fixed about it."""
        return self._info

    @property
    def tokenizer(self) -> Tokenizer:
        """Its model's tokenizer, in this process."""
        return self._tokenizer

    def load(self) -> EngineLoad:
        """Its load as last told."""
        return self._process.load

    async def fill(self, request: FillRequest) -> FillResult:
        """Append tokens; see the port."""
        return await self._process.fill(request)

    def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateChunk, None]:
        """Append tokens and generate one output; see the port."""
        return self._process.generate(request)

    async def free(self, context_ids: Sequence[ContextId], *, retain: bool = False) -> None:
        """Give up contexts; returns when word is on its way."""
        self._process.free(context_ids, retain=retain)

    async def appraise(self, values: Mapping[ContextId, int]) -> None:
        """Say what contexts are worth; returns once word is on its way."""
        self._process.appraise(values)

    def notices(self) -> AsyncIterator[Notice]:
        """What it has to tell, for one reader."""
        return self._process.board.read()

    async def close(self) -> None:
        """End the process. Idempotent."""
        await self._process.close()


async def start_remote(
    message: Start,
    *,
    tokenizer: Tokenizer,
    progress: Progress,
    clock: Clock | None = None,
    liveness: Liveness | None = None,
) -> RemoteEngine:
    """Start a process and the engine in it.

    Raises `EngineError` (`engine_start_failed`), or what the process says it failed with (`ConfigError`).
    """
    process = EngineProcess(clock=clock or SystemClock(), liveness=liveness or Liveness(), progress=progress)
    info = await process.start(message)
    return RemoteEngine(process, info=info, tokenizer=tokenizer)


def _describe(status: int | None) -> str:
    if status is None:
        return "the engine's process closed its connection"
    how = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
    return f"the engine's process {how}"
