"""What the service and an engine's process say to each other: MessagePack in frames over a Unix socket.

    frame    length (4 bytes, big endian) │ one message in MessagePack

Messages are checked against their types when they are decoded. A frame that is too long or not a message
ends the connection, for nothing after it can be trusted. Requests carry a number that the service counts up,
so an answer can only ever reach the request that it belongs to.
"""

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import msgspec

from parrot.errors import ParrotError, TooLargeError, error_from_code
from parrot.ports.engine import (
    EngineInfo,
    EngineLoad,
    FillRequest,
    FillResult,
    GenerateChunk,
    GenerateEnd,
    GenerateRequest,
    TokenLogprob,
)
from parrot.types.ids import ContextId, EngineId

logger = logging.getLogger(__name__)

MAX_FRAME_BYTES = 64 << 20
"""A longer frame ends the connection."""
_HEADER = struct.Struct(">I")


class Start(msgspec.Struct, tag="start", frozen=True):
    """First message to the process: the engine it is to be."""

    engine_id: EngineId
    kind: str
    config: dict[str, object]


class Fill(msgspec.Struct, tag="fill", frozen=True):
    """`Engine.fill`."""

    number: int
    request: FillRequest


class Generate(msgspec.Struct, tag="generate", frozen=True):
    """`Engine.generate`."""

    number: int
    request: GenerateRequest


class Cancel(msgspec.Struct, tag="cancel", frozen=True):
    """The caller of a request went away."""

    number: int


class Free(msgspec.Struct, tag="free", frozen=True):
    """`Engine.free`."""

    context_ids: tuple[ContextId, ...]
    retain: bool


class Appraise(msgspec.Struct, tag="appraise", frozen=True):
    """`Engine.appraise`."""

    values: dict[ContextId, int]


class Ping(msgspec.Struct, tag="ping", frozen=True):
    """Asks for a sign of life."""


class Close(msgspec.Struct, tag="close", frozen=True):
    """Stop all work and end the process."""


ToEngine = Start | Fill | Generate | Cancel | Free | Appraise | Ping | Close


class Starting(msgspec.Struct, tag="starting", frozen=True):
    """The engine is in a phase of its start."""

    phase: str
    fraction: float | None


class Started(msgspec.Struct, tag="started", frozen=True):
    """The engine is ready for requests."""

    info: EngineInfo


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """A request failed, or the start did (then without a number)."""

    number: int | None
    code: str
    message: str
    param: str | None
    data: dict[str, object]


class Filled(msgspec.Struct, tag="filled", frozen=True):
    """A fill has ended."""

    number: int
    result: FillResult


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """One request's part of `Chunks`."""

    number: int
    text: str
    token_ids: tuple[int, ...]
    end: GenerateEnd | None
    logprobs: tuple[TokenLogprob, ...] | None = None

    @classmethod
    def of(cls, number: int, chunk: GenerateChunk) -> "Chunk":
        """What a request got, as it is sent."""
        return cls(
            number=number,
            text=chunk.text,
            token_ids=chunk.token_ids,
            end=chunk.end,
            logprobs=chunk.logprobs,
        )

    def chunk(self) -> GenerateChunk:
        """The same as the port has it."""
        return GenerateChunk(text=self.text, token_ids=self.token_ids, end=self.end, logprobs=self.logprobs)


class Chunks(msgspec.Struct, tag="chunks", frozen=True):
    """What one step gave to all generations."""

    chunks: tuple[Chunk, ...]


class ContextsEvicted(msgspec.Struct, tag="evicted", frozen=True):
    """The notice `Evicted`."""

    context_ids: tuple[ContextId, ...]


class Load(msgspec.Struct, tag="load", frozen=True):
    """The notice `LoadChanged`; also the answer to `Ping`."""

    load: EngineLoad
    pong: bool = False


class Gone(msgspec.Struct, tag="gone", frozen=True):
    """The notice `Lost`: the engine inside the process has failed."""

    reason: str


FromEngine = Starting | Started | Failed | Filled | Chunks | ContextsEvicted | Load | Gone

Received = TypeVar("Received")


def failure_message(number: int | None, error: ParrotError) -> Failed:
    """An error on its way to the service; data that cannot be sent is left out."""
    plain = (str, int, float, bool, type(None))
    data: dict[str, object] = {key: value for key, value in error.data.items() if isinstance(value, plain)}
    return Failed(number=number, code=error.code, message=error.message, param=error.param, data=data)


def failure_error(message: Failed) -> ParrotError:
    """The error that a message tells of."""
    return error_from_code(message.code, message.message, param=message.param, data=message.data)


class Link(asyncio.Protocol, Generic[Received]):
    """One end of the socket. Sends in order, everything of one turn of the event loop in one write.

    Args:
        receives: the union of messages that may come.
        on_message: told each of them.
        on_end: told once that nothing more will come, and why if it was this end that closed.
    """

    def __init__(
        self,
        receives: object,
        *,
        on_message: Callable[[Received], None],
        on_end: Callable[[str | None], None],
    ) -> None:
        self._decoder = msgspec.msgpack.Decoder(cast("type[Received]", receives), strict=True)
        self._encoder = msgspec.msgpack.Encoder()
        self._on_message = on_message
        self._on_end = on_end
        self._received = bytearray()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._reason: str | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the socket is closed."""

    @property
    def is_open(self) -> bool:
        """Whether what is sent goes anywhere."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: msgspec.Struct) -> None:
        """Send a message; silently dropped when the connection has ended.

        Raises `TooLargeError` for a message that no frame can hold.
        """
        if not self.is_open:
            return
        body = self._encoder.encode(message)
        if len(body) > MAX_FRAME_BYTES:
            raise TooLargeError(
                f"a message of {len(body)} bytes cannot be sent to an engine",
                data={"limit_bytes": MAX_FRAME_BYTES},
            )
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self.flush)
        self._outgoing += (_HEADER.pack(len(body)), body)

    def flush(self) -> None:
        """Write what was sent in this turn."""
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(outgoing))

    def close(self, reason: str = "closed") -> None:
        """Close the socket after what was sent has been written."""
        self._reason = self._reason or reason
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close the socket at once."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is attached."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes came: decode the frames that are complete."""
        buffer = self._received
        buffer += data
        at = 0
        while len(buffer) - at >= _HEADER.size and self._reason is None:
            (length,) = _HEADER.unpack_from(buffer, at)
            if length > MAX_FRAME_BYTES:
                self._refuse(f"a frame of {length} bytes")
                break
            begin, end = at + _HEADER.size, at + _HEADER.size + length
            if len(buffer) < end:
                break
            try:
                message = self._decoder.decode(bytes(buffer[begin:end]))
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                self._refuse(f"a frame that is no message ({error})")
                break
            self._on_message(message)
            at = end
        del buffer[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is gone, or this end was closed."""
        if not self.closed.done():
            self.closed.set_result(None)
        if exc is not None:
            logger.debug("engine connection: %s", exc)
        self._on_end(self._reason)

    def _refuse(self, what: str) -> None:
        logger.error("engine connection: received %s; closing", what)
        self.abort(f"received {what}")
