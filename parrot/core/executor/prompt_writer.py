"""Writing the prompts of calls whose inputs are there, here or in a thread."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from parrot.core.executor.runtime import Runtime
from parrot.core.lowering import check_call, lower
from parrot.core.prompts import Model, Prompt, write_prompt
from parrot.core.sessions import CallRecord, Session
from parrot.types.ids import CallId
from parrot.types.program import ConstantSegment, Program

LONG_TEXT_CHARS = 32_768
"""More text than this is tokenised in a thread, off the event loop."""


class Unwritten(msgspec.Struct, frozen=True, kw_only=True):
    """A call whose prompt is to be written."""

    session: Session
    record: CallRecord
    model: Model


class PromptWriter:
    """Lowers and tokenises. It changes nothing, so that a thread can do it for a call that is cancelled
    meanwhile.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def write(self, session: Session, record: CallRecord, model: Model) -> tuple[Program, Prompt]:
        """A call's program, and its prompt; its inputs are ready. Raises as `lower` and `write_prompt` do."""
        program = record.program or self._lower(session, record, model)
        prompt = write_prompt(
            program,
            model,
            session.graph.variables.__getitem__,
            tenant_id=session.tenant_id,
            salt=self._runtime.config.salt,
            cache=self._runtime.tokens,
        )
        return program, prompt

    def write_all(self, calls: Sequence[Unwritten]) -> list[tuple[Program, Prompt] | Exception]:
        """As `write`, for several; in place of what could not be written stands why."""
        results: list[tuple[Program, Prompt] | Exception] = []
        for call in calls:
            try:
                results.append(self.write(call.session, call.record, call.model))
            except Exception as error:  # noqa: BLE001  it is raised again where the call can be blamed
                results.append(error)
        return results

    def _lower(self, session: Session, record: CallRecord, model: Model) -> Program:
        call = session.graph.calls[record.call_id]
        return lower(
            check_call(record.spec, self._runtime.limits),
            inputs=call.inputs,
            outputs=call.outputs,
            model=model.name,
            tokenizer=model.tokenizer,
            opaque=session.opaque,
            published=self._runtime.config.shared_prefixes,
        )


def num_chars_of(session: Session, call_id: CallId) -> int:
    """The text that is tokenised for a call."""
    variables = session.graph.variables
    call = session.graph.calls[call_id]
    record = session.records[call_id]
    num_chars = sum(len(variables[v].value or "") for v in call.inputs.values())
    if record.program is not None:
        return num_chars + sum(len(s.text) for s in record.program.segments if isinstance(s, ConstantSegment))
    spec = record.spec
    return num_chars + len(spec.template or "".join(message.content for message in spec.messages or ()))


def portions(calls: Iterable[Unwritten]) -> Iterator[list[Unwritten]]:
    """The calls in portions of about as much text as is worth a thread."""
    portion: list[Unwritten] = []
    num_chars = 0
    for call in calls:
        portion.append(call)
        num_chars += num_chars_of(call.session, call.record.call_id)
        if num_chars > LONG_TEXT_CHARS:
            yield portion
            portion, num_chars = [], 0
    if portion:
        yield portion
