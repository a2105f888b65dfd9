"""An engine's own process: `python -m parrot.engine.worker --fd N`, started by `parrot.engine.remote`.

It reads its configuration from the socket it was given, builds the engine, serves it over the socket, and
ends when the socket closes, when it is told to, or on SIGTERM. It never outlives its parent: a thread that
does nothing but wait for the socket's other end sees it go, even while the engine is loading a model.
"""

import argparse
import asyncio
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Coroutine
from typing import Any

from parrot.engine.launch import build_engine, decode_config
from parrot.engine.messages import (
    Appraise,
    Cancel,
    Chunk,
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
    ToEngine,
    failure_message,
)
from parrot.errors import EngineError, ParrotError, fault_trace
from parrot.ports.engine import Engine, Evicted, LoadChanged, Lost

logger = logging.getLogger(__name__)

_GRACE_S = 5.0


class EngineServer:
    """One engine behind one socket."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._chunks: list[Chunk] = []
        self._over = asyncio.Event()
        self._start: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        self._link: Link[ToEngine] = Link(ToEngine, on_message=self._receive, on_end=self._ended)

    async def serve(self, sock: socket.socket) -> None:
        """Build the engine that the socket asks for and serve it until the end."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        await loop.create_connection(lambda: self._link, sock=sock)
        serving = loop.create_task(self._build_and_serve())
        over = loop.create_task(self._over.wait())
        await asyncio.wait((serving, over), return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        over.cancel()
        failure = (await asyncio.gather(serving, over, return_exceptions=True))[0]
        if isinstance(failure, Exception) and self._engine is None:
            reason = f"{type(failure).__name__}: {failure}"
            self._link.send(failure_message(None, EngineError(reason, code="engine_start_failed")))
        await self._shut_down()
        if isinstance(failure, Exception):
            raise failure

    def stop(self) -> None:
        """End soon."""
        self._over.set()

    async def _build_and_serve(self) -> None:
        start = await self._start
        try:
            config = decode_config(start.kind, start.config)
            engine = await build_engine(config, start.engine_id, self._report)
        except ParrotError as error:
            self._link.send(failure_message(None, error))
            return
        # What was made to start stays: no collection need look at it again while steps wait.
        gc.collect()
        gc.freeze()
        self._engine = engine
        self._link.send(Started(info=engine.info))
        async for notice in engine.notices():
            self._flush_chunks()
            match notice:
                case Evicted(context_ids=context_ids):
                    self._send(ContextsEvicted(context_ids=context_ids))
                case LoadChanged(load=load):
                    self._send(Load(load=load))
                case Lost(reason=reason):
                    self._send(Gone(reason=reason))

    async def _shut_down(self) -> None:
        tasks = [*self._requests.values(), *self._others]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._engine is not None:
            await self._engine.close()
        self._link.close()
        await self._link.closed

    def _report(self, phase: str, fraction: float | None) -> None:
        self._link.send(Starting(phase=phase, fraction=fraction))

    def _send(self, message: FromEngine) -> None:
        self._link.send(message)

    def _ended(self, reason: str | None) -> None:
        logger.debug("engine process: the connection is closed: %s", reason or "by the service")
        self._over.set()

    def _receive(self, message: ToEngine) -> None:
        """One message came. Tasks start in the order in which they are made, so requests keep their order."""
        match message:
            case Start():
                if not self._start.done():
                    self._start.set_result(message)
            case Fill(number=number):
                self._accept(number, self._fill(message))
            case Generate(number=number):
                self._accept(number, self._generate(message))
            case Cancel(number=number):
                if (task := self._requests.get(number)) is not None:
                    task.cancel()
            case Free(context_ids=context_ids, retain=retain):
                self._do(self._ready().free(context_ids, retain=retain))
            case Appraise(values=values):
                self._do(self._ready().appraise(values))
            case Ping():
                self._pong()
            case Close():
                self.stop()

    def _do(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    def _accept(self, number: int, serving: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(serving)
        self._requests[number] = task
        task.add_done_callback(lambda done: self._request_ended(number, done))

    def _request_ended(self, number: int, task: asyncio.Task[None]) -> None:
        self._requests.pop(number, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        self._flush_chunks()
        if isinstance(error, ParrotError):
            self._send(failure_message(number, error))
        else:
            logger.error("request %d failed\n%s", number, fault_trace(error))
            reason = f"a fault of the engine ({type(error).__name__}); its log has more"
            self._send(Failed(number=number, code="engine_failed", message=reason, param=None, data={}))

    async def _fill(self, message: Fill) -> None:
        result = await self._ready().fill(message.request)
        self._send(Filled(number=message.number, result=result))

    async def _generate(self, message: Generate) -> None:
        async for chunk in self._ready().generate(message.request):
            if not self._chunks:
                asyncio.get_running_loop().call_soon(self._flush_chunks)
            self._chunks.append(Chunk.of(message.number, chunk))

    def _pong(self) -> None:
        if self._engine is not None:
            self._send(Load(load=self._engine.load(), pong=True))

    def _ready(self) -> Engine:
        if self._engine is None:
            raise EngineError("the engine has not started yet")
        return self._engine

    def _flush_chunks(self) -> None:
        """Send what the generations got in one turn of the event loop, which is one step of the engine."""
        if self._chunks:
            chunks, self._chunks = tuple(self._chunks), []
            self._link.send(Chunks(chunks=chunks))
            self._link.flush()


def _watch_parent(fd: int) -> None:
    """Wait for the socket's other end to go; then end this process, by force if it does not end by itself."""
    poll = select.poll()
    poll.register(fd, 0)
    poll.poll()
    threading.Event().wait(_GRACE_S)
    os._exit(1)


class _Formatter(logging.Formatter):
    """Writes of an exception what `fault_trace` tells: its message may hold a prompt."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return fault_trace(ei[1])


def _configure_logs() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    sys.excepthook = lambda _kind, error, _trace: logger.critical(
        "the engine's process ends\n%s", fault_trace(error)
    )


def _log_fault(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody awaited; asyncio's own handler would write messages, and the values in them."""
    error = context.get("exception")
    trace = fault_trace(error) if isinstance(error, BaseException) else ""
    logger.error("%s\n%s", context["message"], trace)


def main() -> int:
    """Serve the engine that the parent asks for over the socket with the number `--fd`."""
    parser = argparse.ArgumentParser(prog="parrot.engine.worker")
    parser.add_argument("--fd", type=int, required=True)
    fd: int = parser.parse_args().fd
    _configure_logs()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watched = os.dup(fd)
    threading.Thread(target=_watch_parent, args=(watched,), daemon=True).start()
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)

    async def serve() -> None:
        asyncio.get_running_loop().set_exception_handler(_log_fault)
        await EngineServer().serve(sock)

    asyncio.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
