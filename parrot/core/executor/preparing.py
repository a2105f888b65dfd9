"""Calls with all their inputs get their prompts: lowered and tokenised, some in each turn of the event loop,
long ones in a thread. Then they may join those that wait for an engine.
"""

import asyncio
import logging
from collections.abc import Callable, Container

import msgspec

from parrot.core.executor.prompt_writer import (
    LONG_TEXT_CHARS,
    PromptWriter,
    Unwritten,
    num_chars_of,
    portions,
)
from parrot.core.executor.runtime import Runtime
from parrot.core.prompts import Model, Prompt
from parrot.core.sessions import CallRecord, Session
from parrot.errors import CallError, RequestError
from parrot.types.events import Failure
from parrot.types.ids import CallId
from parrot.types.program import Program
from parrot.wire.errors import to_failure

MAX_PREPARED = 256
"""Calls that are prepared in one turn of the event loop."""

logger = logging.getLogger(__name__)


class Prepared(msgspec.Struct, kw_only=True):
    """A call whose prompt is written."""

    session: Session
    record: CallRecord
    model: Model
    prompt: Prompt


class Preparing:
    """Calls that became ready, and those of them that are prepared."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        active: Container[CallId],
        fail: Callable[[Session, CallRecord, Failure], None],
    ) -> None:
        """`active` has the calls that have not ended; `fail` is told of what cannot be prepared."""
        self._runtime = runtime
        self._active = active
        self._fail = fail
        self._writer = PromptWriter(runtime)
        self._new: dict[CallId, tuple[Session, CallRecord]] = {}
        self._prepared: dict[CallId, Prepared] = {}

    def add(self, session: Session, record: CallRecord) -> None:
        """A call has all its inputs."""
        self._new[record.call_id] = (session, record)
        self._runtime.fleet.wake_scheduler.set()

    def remove(self, call_id: CallId) -> None:
        """A call is not to run. Nothing happens when it is not here."""
        self._new.pop(call_id, None)
        self._prepared.pop(call_id, None)

    def take(self) -> list[Prepared]:
        """Those that are prepared by now, in that order; they are here no more."""
        taken = list(self._prepared.values())
        self._prepared.clear()
        return taken

    def prepare_some(self, group: asyncio.TaskGroup) -> bool:
        """Prepare some, of those whose model is served; says whether there are more."""
        num_chars = num_prepared = 0
        apart: list[Unwritten] = []
        for call_id, (session, record) in list(self._new.items()):
            model = self._runtime.fleet.models.get(record.model)
            if model is None:
                continue
            if num_prepared == MAX_PREPARED:
                break
            del self._new[call_id]
            num_prepared += 1
            if record.prompt is not None:
                self._note(session, record, model, record.prompt)
                continue
            num_chars += num_chars_of(session, call_id)
            if num_chars > LONG_TEXT_CHARS:
                apart.append(Unwritten(session=session, record=record, model=model))
                continue
            try:
                self._note_written(session, record, model, self._writer.write(session, record, model))
            except Exception as error:  # noqa: BLE001 - this call's fault alone
                self._fail(session, record, failure_of(record.call_id, error))
        if apart:
            group.create_task(self._prepare_apart(apart))
        return num_prepared == MAX_PREPARED

    async def _prepare_apart(self, calls: list[Unwritten]) -> None:
        """Prepare calls in a thread, so much text at a time; who is done may be placed meanwhile."""
        for portion in portions(calls):
            results = await asyncio.to_thread(self._writer.write_all, portion)
            for call, result in zip(portion, results, strict=True):
                if call.record.call_id not in self._active:
                    # It was cancelled, or its session closed.
                    continue
                try:
                    if isinstance(result, Exception):
                        raise result
                    self._note_written(call.session, call.record, call.model, result)
                except Exception as error:  # noqa: BLE001 - this call's fault alone
                    self._fail(call.session, call.record, failure_of(call.record.call_id, error))
            self._runtime.fleet.wake_scheduler.set()

    def _note_written(
        self, session: Session, record: CallRecord, model: Model, written: tuple[Program, Prompt]
    ) -> None:
        record.program, record.prompt = written
        record.num_prompt_tokens = record.prompt.num_tokens
        self._note(session, record, model, record.prompt)

    def _note(self, session: Session, record: CallRecord, model: Model, prompt: Prompt) -> None:
        session.analysis.refresh(record.call_id)
        session.analysis.measured(record.call_id, prompt.num_tokens)
        if self._runtime.config.has("retention"):
            self._runtime.retention.want(record.call_id, prompt.keys, 0)
        self._prepared[record.call_id] = Prepared(session=session, record=record, model=model, prompt=prompt)


def failure_of(call_id: CallId, error: Exception) -> Failure:
    """Why a call fails in which something went wrong; what is no fault of its client is logged in full."""
    if isinstance(error, CallError | RequestError):
        return to_failure(error)
    logger.error("call %s failed by a fault of the service", call_id, exc_info=error)
    return Failure(code="internal", message="a fault of the service; its log has the call's id")
