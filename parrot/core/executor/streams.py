"""Streams that readers follow and resume: the text of one variable, the events of one session."""

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass

from parrot.core.executor.runtime import Runtime
from parrot.core.sessions import Session
from parrot.core.variables import Variable
from parrot.core.views import variable_view
from parrot.errors import ConflictError, GoneError, MalformedError
from parrot.ports.store import Appended, Store
from parrot.types.ids import VariableId
from parrot.wire.events import event_name, event_to_json

POSITION = re.compile(r"(\d{1,9})\.(\d{1,9})\Z")
SEQUENCE = re.compile(r"\d{1,15}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamItem:
    """One event of a stream, as it is sent."""

    event: str
    data: Mapping[str, object]
    event_id: str | None
    """Where to resume after this item; None when it is not a place to resume from."""


def closed_error(session: Session) -> GoneError:
    """What a reader of a closing session is told."""
    return GoneError(f"session {session.session_id} was closed", code="session_closed")


class VariableStream:
    """Where one reader stands in a variable's text. A position is `attempt.characters`."""

    def __init__(
        self, runtime: Runtime, session: Session, variable: Variable, *, attempt: int = 0, num_chars: int = 0
    ) -> None:
        self.variable = variable
        self._runtime = runtime
        self._session = session
        self._attempt = attempt
        self._num_chars = num_chars

    def news(self) -> tuple[list[StreamItem], bool]:
        """What has come since this was last asked, and whether it was the last. The deltas since the last
        reset, joined, are the value.
        """
        now = _stands(self._runtime, self._session, self.variable)
        items: list[StreamItem] = []
        if now.attempt != self._attempt:
            if self._num_chars:
                position = f"{now.attempt}.0"
                items.append(StreamItem(event="reset", data={"attempt": now.attempt}, event_id=position))
            self._attempt, self._num_chars = now.attempt, 0
        text = now.text_from(self._num_chars)
        if text:
            self._num_chars += len(text)
            data = {"attempt": self._attempt, "text": text}
            position = f"{self._attempt}.{self._num_chars}"
            items.append(StreamItem(event="delta", data=data, event_id=position))
        if now.final:
            view = variable_view(self._session, self.variable)
            body = view.model_dump(mode="json", exclude_none=True)
            items.append(StreamItem(event=view.state, data=body, event_id=None))
        return items, now.final

    def require_reached(self) -> None:
        """See that the variable's text has come as far as the reader says that it has read.

        Raises:
            ConflictError: `event_from_future`.
        """
        now = _stands(self._runtime, self._session, self.variable)
        ahead = now.started and self._attempt == now.attempt and self._num_chars > now.num_chars
        if self._attempt > now.attempt or ahead:
            raise ConflictError("Last-Event-ID is ahead of the stream", code="event_from_future")


async def stream_variable(
    runtime: Runtime, session: Session, variable: Variable, last_event_id: str | None
) -> AsyncGenerator[StreamItem, None]:
    """The text of a variable as it is generated, then its committed value's end, or its failure.

    Raises:
        MalformedError: `bad_event_id`.
        ConflictError: `event_from_future`.
        GoneError: the session was closed.
    """
    attempt, num_chars = _parse_position(last_event_id)
    stream = VariableStream(runtime, session, variable, attempt=attempt, num_chars=num_chars)
    stream.require_reached()
    while True:
        if session.closing:
            raise closed_error(session)
        items, is_last = stream.news()
        for item in items:
            yield item
        if is_last:
            return
        if not items:
            await runtime.bells.wait(variable.variable_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """What there is of a variable's text now."""

    attempt: int
    num_chars: int
    text_from: Callable[[int], str]
    final: bool
    started: bool = True
    """False before the attempt's first text: after a restart, positions of an earlier one are still about."""


def _stands(runtime: Runtime, session: Session, variable: Variable) -> _Standing:
    producer = variable.producer
    attempt = session.records[producer].attempt if producer else 0
    if variable.state != "pending" and variable.variable_id not in session.uncommitted:
        value = variable.value or ""
        attempt = session.attempts.get(variable.variable_id, attempt)
        return _Standing(attempt=attempt, num_chars=len(value), text_from=lambda n: value[n:], final=True)
    live = runtime.live.get(variable.variable_id)
    if live is None:
        return _Standing(
            attempt=attempt, num_chars=0, text_from=lambda _: "", final=False, started=producer is None
        )
    return _Standing(attempt=live.attempt, num_chars=live.num_chars, text_from=live.text_from, final=False)


async def stream_session(
    runtime: Runtime, store: Store, session: Session, last_event_id: str | None
) -> AsyncGenerator[StreamItem, None]:
    """Every event of a session, from its beginning or from a sequence number on, then as they come."""
    if last_event_id is not None and not SEQUENCE.match(last_event_id):
        raise MalformedError(
            "Last-Event-ID is not one of this stream's", code="bad_event_id", param="Last-Event-ID"
        )
    after = int(last_event_id or 0)
    feed = runtime.journal.subscribe(session.session_id)
    try:
        log = await store.load_session(session.session_id)
        if after > len(log):
            raise ConflictError("Last-Event-ID is ahead of the stream", code="event_from_future")
        for appended in log[after:]:
            yield _session_item(appended)
            if event_name(appended.event) == "session_closed":
                return
        seen = max(after, len(log))
        while (item := await feed.next()) is not None:
            if item.seq == 0 or item.seq > seen:
                seen = max(seen, item.seq)
                yield _session_item(item)
                if event_name(item.event) == "session_closed":
                    return
    finally:
        feed.close()


def _session_item(appended: Appended) -> StreamItem:
    return StreamItem(
        event=event_name(appended.event),
        data=event_to_json(appended.event),
        event_id=str(appended.seq) if appended.seq else None,
    )


def _parse_position(last_event_id: str | None) -> tuple[int, int]:
    if last_event_id is None:
        return 0, 0
    match = POSITION.match(last_event_id)
    if match is None:
        raise MalformedError(
            "Last-Event-ID is not one of this stream's", code="bad_event_id", param="Last-Event-ID"
        )
    return int(match[1]), int(match[2])


def forget_live(runtime: Runtime, variable_id: VariableId) -> None:
    """A variable's resolution is committed: its live text is not needed, and its readers want to know."""
    runtime.live.drop(variable_id)
    runtime.bells.ring(variable_id)
