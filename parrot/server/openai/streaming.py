"""Answers as they are generated: `data:` lines of JSON, and `[DONE]` at the end."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec
from fastapi.sse import format_sse_event

from parrot.core.executor.requests import Outcome, Piece, RequestRun
from parrot.errors import ParrotError
from parrot.server.disconnects import cancel_all
from parrot.server.openai.answers import Json, usage_of
from parrot.server.openai.errors import error_body

DONE = "[DONE]"


class Writer(Protocol):
    """Writes the chunks of one kind of answer."""

    def first(self, index: int) -> Json | None:
        """Before the first piece of a choice."""
        ...

    def piece(self, index: int, piece: Piece) -> Json | None:
        """Some more of a choice; None when there is nothing to show yet."""
        ...

    def last(self, index: int, outcome: Outcome) -> Sequence[Json]:
        """The rest of a choice, and how it ended."""
        ...

    def usage(self, usage: Json) -> Json:
        """After all choices."""
        ...


class DataLines:
    """How OpenAI's streams are framed."""

    def item(self, item: Json | str) -> bytes:
        """A chunk, or the word that ends the stream."""
        return format_sse_event(
            data_str=item if isinstance(item, str) else msgspec.json.encode(item).decode()
        )

    def error(self, error: ParrotError, request_id: str) -> bytes:
        """What went wrong after the stream had begun; nothing follows."""
        return self.item(error_body(error, request_id))


async def chunks(
    run: RequestRun, writer: Writer, *, num_choices: int, includes_usage: bool
) -> AsyncGenerator[Json | str, None]:
    """All chunks of an answer, those of several choices as they come."""
    outcomes: dict[int, Outcome] = {}
    begun: set[int] = set()
    with_usage: Json = {"usage": None} if includes_usage else {}
    async with aclosing(_merged(run)) as pieces:
        async for index, piece in pieces:
            first = None if index in begun else writer.first(index)
            begun.add(index)
            if first is not None:
                yield {**first, **with_usage}
            if piece is not None:
                shown = writer.piece(index, piece)
                if shown is not None:
                    yield {**shown, **with_usage}
                continue
            outcomes[index] = await run.outcome(index)
            for chunk in writer.last(index, outcomes[index]):
                yield {**chunk, **with_usage}
    if includes_usage:
        yield writer.usage(usage_of([outcomes[index] for index in range(run.num_outputs)], num_choices))
    yield DONE


async def _merged(run: RequestRun) -> AsyncGenerator[tuple[int, Piece | None], None]:
    """The pieces of all outputs with their number, as they come; None follows an output's last."""
    if run.num_outputs == 1:
        async with aclosing(run.follow(0)) as pieces:
            async for piece in pieces:
                yield 0, piece
        yield 0, None
        return
    # Not bounded: outputs are.
    queue: asyncio.Queue[tuple[int, Piece] | asyncio.Task[int]] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(run, index, queue)) for index in range(run.num_outputs)]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    num_open = len(tasks)
    try:
        while num_open:
            item = await queue.get()
            if isinstance(item, asyncio.Task):
                num_open -= 1
                yield item.result(), None
            else:
                yield item
    finally:
        await cancel_all(*tasks)


async def _pump(
    run: RequestRun, index: int, queue: "asyncio.Queue[tuple[int, Piece] | asyncio.Task[int]]"
) -> int:
    async with aclosing(run.follow(index)) as pieces:
        async for piece in pieces:
            queue.put_nowait((index, piece))
    return index
