"""Where what an engine produces waits for its one reader: an output's chunks, and the engine's notices."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from parrot.errors import ParrotError
from parrot.ports.engine import Evicted, GenerateChunk, LoadChanged, Lost, Notice
from parrot.types.ids import ContextId


class ChunkStream:
    """The chunks of one output. Read by one task; the last chunk, or an error, ends it."""

    def __init__(self) -> None:
        self._chunks: deque[GenerateChunk] = deque()
        self._error: ParrotError | None = None
        self._reader: asyncio.Future[None] | None = None

    def put(self, chunk: GenerateChunk) -> None:
        """Add a chunk."""
        self._chunks.append(chunk)
        self._tell()

    def fail(self, error: ParrotError) -> None:
        """End with `error`, after the chunks that are there."""
        self._error = error
        self._tell()

    async def get(self) -> GenerateChunk:
        """The next chunk; raises the error when that comes next, which is the end."""
        while not self._chunks:
            if self._error is not None:
                error, self._error = self._error, None
                try:
                    raise error
                finally:
                    # It holds this frame, and with that all that ran the call; the frame is not to hold it.
                    del error
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._chunks.popleft()

    def _tell(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class NoticeBoard:
    """An engine's notices for one reader. However slowly it reads, no more than one load and one list of
    evicted contexts wait.
    """

    def __init__(self) -> None:
        self._evicted: list[ContextId] = []
        self._load: LoadChanged | None = None
        self._lost: Lost | None = None
        self._closed = False
        self._news = asyncio.Event()

    def tell(self, notice: Notice) -> None:
        """Add a notice; after `Lost`, and after `close`, nothing is added."""
        if self._closed:
            return
        match notice:
            case Evicted(context_ids=context_ids):
                self._evicted.extend(context_ids)
            case LoadChanged():
                self._load = notice
            case Lost():
                self._lost = notice
                self._closed = True
        self._news.set()

    def close(self) -> None:
        """Nothing further comes; the reader gets what is there, and then the end."""
        self._closed = True
        self._news.set()

    async def read(self) -> AsyncIterator[Notice]:
        """The notices as they come, until the engine is closed or lost."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._evicted:
                evicted, self._evicted = tuple(self._evicted), []
                yield Evicted(context_ids=evicted)
            if self._load is not None:
                load, self._load = self._load, None
                yield load
            if self._lost is not None:
                yield self._lost
            if self._closed:
                return
