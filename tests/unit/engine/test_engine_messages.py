"""The connection between the service and an engine's process."""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from parrot.engine.messages import (
    MAX_FRAME_BYTES,
    Cancel,
    Chunk,
    Chunks,
    Failed,
    Fill,
    Free,
    FromEngine,
    Link,
    ToEngine,
    failure_error,
    failure_message,
)
from parrot.errors import CallError, TooLargeError
from parrot.ports.engine import ContextRef, FillRequest, GenerateEnd
from parrot.types.ids import ContextId, RequestId


class End:
    """One end of a connection, and what came out of it."""

    def __init__(self, receives: object) -> None:
        self.messages: list[object] = []
        self.reason: str | None = "not ended"
        self.news = asyncio.Event()
        self.link: Link[object] = Link(receives, on_message=self._take, on_end=self._end)

    def _take(self, message: object) -> None:
        self.messages.append(message)
        self.news.set()

    def _end(self, reason: str | None) -> None:
        self.reason = reason
        self.news.set()

    async def attach(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self.link, sock=sock)

    async def until(self, num_messages: int) -> None:
        while len(self.messages) < num_messages:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 5)


@asynccontextmanager
async def ends() -> AsyncIterator[tuple[End, End]]:
    """The service's end and the engine's end."""
    here, there = socket.socketpair()
    service, engine = End(FromEngine), End(ToEngine)
    for end, sock in ((service, here), (engine, there)):
        await end.attach(sock)
    yield service, engine
    for end in (service, engine):
        end.link.close()
        await end.link.closed


async def test_messages_arrive_whole_and_in_order_whatever_their_size() -> None:
    sent: list[msgspec.Struct] = []
    async with ends() as (service, engine):
        for number in range(50):
            request = FillRequest(
                request_id=RequestId("r"),
                context_id=ContextId(number),
                token_ids=tuple(range(number * 100)),
                parent=ContextRef(context_id=ContextId(1), num_tokens=3),
            )
            sent += [Fill(number=number, request=request), Cancel(number=number)]
        sent.append(Free(context_ids=(ContextId(1), ContextId(2)), retain=True))
        for message in sent:
            service.link.send(message)
        await engine.until(len(sent))
        assert engine.messages == sent


async def test_one_message_carries_the_tokens_of_a_whole_step() -> None:
    end = GenerateEnd(reason="stop", exact=True, num_tokens=9, num_prefilled=4)
    chunks = Chunks(
        chunks=(
            Chunk(number=1, text="é", token_ids=(195, 169), end=None),
            Chunk(number=2, text="", token_ids=(), end=end),
        )
    )
    async with ends() as (service, engine):
        engine.link.send(chunks)
        await service.until(1)
        assert service.messages == [chunks]
        assert chunks.chunks[1].chunk().end == end


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">I", MAX_FRAME_BYTES + 1),
        struct.pack(">I", 1) + b"\xc1",
        struct.pack(">I", 5) + b"\xc6\xff\xff\xff\xff",
        struct.pack(">I", 100_000) + b"\x91" * 100_000,
        struct.pack(">I", 3) + b"\xd4\x01\x02",
        struct.pack(">I", 2) + b"\xa1\xff",
    ],
    ids=["too-long", "reserved-byte", "4-GiB-binary", "depth-bomb", "extension-type", "not-utf8"],
)
async def test_a_frame_that_is_no_message_closes_the_connection(
    frame: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with ends() as (service, engine):
        with caplog.at_level(logging.ERROR):
            service.link._transport.write(frame)  # type: ignore[union-attr]
            await asyncio.wait_for(engine.link.closed, 5)
        assert engine.messages == []
        assert engine.reason is not None
        assert engine.reason.startswith("received a frame")
        assert "closing" in caplog.text
        await asyncio.wait_for(service.link.closed, 5)
        assert service.reason is None


async def test_a_message_of_a_wrong_shape_closes_the_connection() -> None:
    async with ends() as (service, engine):
        body = msgspec.msgpack.encode({"type": "cancel", "number": "one"})
        service.link._transport.write(struct.pack(">I", len(body)) + body)  # type: ignore[union-attr]
        await asyncio.wait_for(engine.link.closed, 5)
        assert engine.messages == []


async def test_a_message_that_no_frame_can_hold_is_refused_and_the_connection_lives() -> None:
    async with ends() as (service, engine):
        with pytest.raises(TooLargeError):
            service.link.send(Failed(number=1, code="x", message="m" * MAX_FRAME_BYTES, param=None, data={}))
        service.link.send(Cancel(number=7))
        await engine.until(1)
        assert engine.messages == [Cancel(number=7)]


async def test_sending_after_the_end_is_silent() -> None:
    async with ends() as (service, engine):
        engine.link.close()
        await asyncio.wait_for(service.link.closed, 5)
        service.link.send(Cancel(number=1))
        assert engine.messages == []


def test_an_error_comes_back_as_it_was_but_for_data_that_cannot_be_sent() -> None:
    error = CallError(
        "too long", code="context_overflow", param="p", data={"num_tokens": 5, "object": object()}
    )
    again = failure_error(failure_message(3, error))
    assert (type(again), again.code, again.message, again.param) == (
        CallError,
        "context_overflow",
        "too long",
        "p",
    )
    assert again.data == {"num_tokens": 5}
