"""Values that come by themselves, with the answer to the submission that makes them."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from parrot.errors import ParrotError, UsageError
from parrot.sdk.client import StreamEvent
from parrot.sdk.once import Once
from parrot.types.objective import Objective
from parrot.wire.answers import VariableView
from parrot.wire.runs import RunDelta, RunReset

RESET: Final = None
"""Among a variable's pieces: those before it are void."""


@dataclass(slots=True, kw_only=True)
class Wanted:
    """How somebody waits for an output that is not submitted yet."""

    objective: Objective | None = None
    deltas: bool = False

    def add(self, objective: Objective | None, *, deltas: bool) -> None:
        """Somebody else waits, too; of several objectives the strictest counts."""
        if self.objective != "latency":
            self.objective = objective or self.objective
        self.deltas |= deltas


class Followed:
    """What the service tells of one variable of its own accord."""

    def __init__(self, objective: Objective | None, *, deltas: bool) -> None:
        self.objective = objective
        """What the service knows of how it is waited for."""
        self.deltas = deltas
        """Whether its text is told while it is generated."""
        self.view: Once[VariableView | None] = Once()
        """The variable as it ended; None when it will not be told, and has to be asked for."""
        self._pieces: asyncio.Queue[str | None] | None = asyncio.Queue() if deltas else None
        self._taken = False

    def take_pieces(self) -> AsyncGenerator[str | None, None] | None:
        """Its text as it comes, `RESET` where it begins anew, up to where `view` is known; once only."""
        if self._pieces is None or self._taken:
            return None
        self._taken = True
        return self._read(self._pieces)

    def add(self, piece: str | None) -> None:
        """More text came, or `RESET`."""
        if self._pieces is not None:
            self._pieces.put_nowait(piece)

    def end(self, view: VariableView | None) -> None:
        """It has ended so; None: no more will be told."""
        self.view.set(view)
        self.add("")

    def fail(self, error: ParrotError) -> None:
        """Whoever waits is told why in vain."""
        self.view.fail(error)
        self.add("")

    async def _read(self, pieces: asyncio.Queue[str | None]) -> AsyncGenerator[str | None, None]:
        while not (pieces.empty() and self.view.done):
            piece = await pieces.get()
            if piece != "":
                yield piece


class Listeners:
    """Reads what answers go on to tell."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], tuple[Followed, ...]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, events: AsyncGenerator[StreamEvent, None], followed: Mapping[str, Followed]) -> None:
        """Read `events` to their end; `followed` are the variables by identifier."""
        task = asyncio.create_task(_listen(events, followed))
        self._tasks[task] = tuple(followed.values())
        task.add_done_callback(lambda _: self._tasks.pop(task, None))

    async def close(self) -> None:
        """Stop reading; who still waits is told so."""
        tasks = dict(self._tasks)
        closed = UsageError("the session is closed")
        for task, followed in tasks.items():
            for one in followed:
                one.fail(closed)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _listen(events: AsyncGenerator[StreamEvent, None], followed: Mapping[str, Followed]) -> None:
    try:
        async with aclosing(events):
            async for event in events:
                _tell(event, followed)
    except (ParrotError, ValidationError):
        # Whatever it was: the service is asked again, variable by variable, and says it to who waits.
        return
    finally:
        for one in followed.values():
            one.end(None)


def _tell(event: StreamEvent, followed: Mapping[str, Followed]) -> None:
    match event.name:
        case "delta":
            delta = RunDelta.model_validate_json(event.data)
            if delta.variable_id in followed:
                followed[delta.variable_id].add(delta.text)
        case "reset":
            reset = RunReset.model_validate_json(event.data)
            if reset.variable_id in followed:
                followed[reset.variable_id].add(RESET)
        case "ready" | "failed":
            view = VariableView.model_validate_json(event.data)
            if view.variable_id in followed:
                followed[view.variable_id].end(view)
        case _:
            return
