"""How much work each open call is expected to be, kept up to date as values and measurements come in."""

from collections.abc import Callable, Iterable, Sequence

from parrot.core.analysis.dataflow import is_open
from parrot.core.estimates import (
    UNKNOWN_INPUT_TOKENS,
    CallShape,
    OutputLengths,
    OutputShape,
    Work,
    text_tokens,
)
from parrot.core.graph import ApplicationGraph
from parrot.core.variables import Variable
from parrot.types.ids import CallId, VariableId

_NONE = Work()


class _Entry:
    """An open call's shape and work."""

    __slots__ = ("measured", "output_tokens", "prompt_tokens", "shape")

    def __init__(self, shape: CallShape) -> None:
        self.shape = shape
        self.measured = False
        """Its prompt has been written: its tokens are known."""
        self.prompt_tokens = 0
        self.output_tokens = 0


class WorkTable:
    """The expected work of every open call, and their sum.

    An input that is not there yet counts with the length expected of its producer's output. What a call's own
    outputs are expected to be is settled when it is added, and anew by `refresh`.
    """

    def __init__(
        self,
        graph: ApplicationGraph,
        lengths: OutputLengths,
        shape: Callable[[CallId], CallShape],
    ) -> None:
        self._graph = graph
        self._variables = graph.variables
        self._lengths = lengths
        self._shape = shape
        self._entries: dict[CallId, _Entry] = {}
        self._tokens: dict[VariableId, int] = {}
        """The lengths with which variables count, in the work of all their consumers alike."""
        self._prompt_tokens = self._output_tokens = 0

    @property
    def total(self) -> Work:
        """The work of all open calls."""
        return Work(prompt_tokens=self._prompt_tokens, output_tokens=self._output_tokens)

    def get(self, call_id: CallId) -> Work:
        """A call's work; none when it is not open."""
        entry = self._entries.get(call_id)
        if entry is None:
            return _NONE
        return Work(prompt_tokens=entry.prompt_tokens, output_tokens=entry.output_tokens)

    def outputs(self, call_id: CallId) -> tuple[OutputShape, ...]:
        """The outputs of an open call, as far as they are known."""
        entry = self._entries.get(call_id)
        return () if entry is None else entry.shape.outputs

    def added(self, call_ids: Sequence[CallId]) -> set[CallId]:
        """The graph has these new calls. Returns the calls whose work is new or has changed."""
        graph, calls = self._graph, self._graph.calls
        changed = {call_id for call_id in call_ids if is_open(graph, calls[call_id])}
        opened: list[_Entry] = []
        for call_id in call_ids:
            if call_id not in changed:
                continue
            shape, entry = self._shape(call_id), self._entries.get(call_id)
            if entry is None:
                entry = self._entries[call_id] = _Entry(shape)
            else:
                entry.shape = shape
            opened.append(entry)
            for output in shape.outputs:
                if self._variables[output.variable_id].state == "pending":
                    changed |= self._set_tokens(output.variable_id, self._lengths.expected(output))
        for entry in opened:
            self._estimate(entry)
        return changed

    def refresh(self, call_id: CallId) -> Iterable[CallId]:
        """Take a call's shape anew, and what is known of its outputs' lengths by now. Returns the calls whose
        work has changed.
        """
        entry = self._entries.get(call_id)
        if entry is None or self._is_fresh(call_id, entry):
            return ()
        return self.added([call_id])

    def _is_fresh(self, call_id: CallId, entry: _Entry) -> bool:
        """Whether a call's shape, and what is expected of its outputs, are as they were."""
        if self._shape(call_id) is not entry.shape:
            return False
        for output in entry.shape.outputs:
            if self._variables[output.variable_id].state != "pending":
                continue
            if self._tokens.get(output.variable_id) != self._lengths.expected(output):
                return False
        return True

    def measured(self, call_id: CallId, prompt_tokens: int) -> Iterable[CallId]:
        """A call's prompt has been written. Returns the calls whose work has changed."""
        entry = self._entries.get(call_id)
        if entry is None:
            return ()
        self._prompt_tokens += prompt_tokens - entry.prompt_tokens
        entry.measured, entry.prompt_tokens = True, prompt_tokens
        return (call_id,)

    def resolved(self, variable_id: VariableId) -> set[CallId]:
        """A variable has become ready or failed. Returns the calls whose work has changed."""
        changed: set[CallId] = set()
        variable = self._variables[variable_id]
        producer_id = variable.producer
        entry = self._entries.get(producer_id) if producer_id is not None else None
        if entry is not None and producer_id is not None:
            if is_open(self._graph, self._graph.calls[producer_id]):
                self._estimate(entry)
                changed.add(producer_id)
            else:
                self.ended(producer_id)
        num_tokens = _actual(variable)
        return changed if num_tokens is None else changed | self._set_tokens(variable_id, num_tokens)

    def ended(self, call_id: CallId) -> None:
        """A call has nothing more to produce."""
        entry = self._entries.pop(call_id, None)
        if entry is not None:
            self._prompt_tokens -= entry.prompt_tokens
            self._output_tokens -= entry.output_tokens

    def _set_tokens(self, variable_id: VariableId, num_tokens: int) -> set[CallId]:
        """A variable has, or is expected to have, another length: its open consumers' prompts follow."""
        changed: set[CallId] = set()
        consumers = self._variables[variable_id].consumers
        if not consumers:
            self._tokens[variable_id] = num_tokens
            return changed
        before = self._counted(variable_id)
        self._tokens[variable_id] = num_tokens
        if num_tokens == before:
            return changed
        for consumer in consumers:
            entry = self._entries.get(consumer)
            if entry is not None and not entry.measured:
                more = (num_tokens - before) * entry.shape.inputs.get(variable_id, 0)
                entry.prompt_tokens += more
                self._prompt_tokens += more
                changed.add(consumer)
        return changed

    def _estimate(self, entry: _Entry) -> None:
        shape, variables = entry.shape, self._variables
        if not entry.measured:
            prompt_tokens = shape.constant_tokens
            for variable_id, count in shape.inputs.items():
                prompt_tokens += count * self._counted(variable_id)
            self._prompt_tokens += prompt_tokens - entry.prompt_tokens
            entry.prompt_tokens = prompt_tokens
        output_tokens = 0
        for output in shape.outputs:
            if variables[output.variable_id].state == "pending":
                output_tokens += self._counted(output.variable_id)
        self._output_tokens += output_tokens - entry.output_tokens
        entry.output_tokens = output_tokens

    def _counted(self, variable_id: VariableId) -> int:
        """The length with which a variable counts, settled when it is first asked for."""
        num_tokens = self._tokens.get(variable_id)
        if num_tokens is None:
            actual = _actual(self._variables[variable_id])
            num_tokens = self._tokens[variable_id] = UNKNOWN_INPUT_TOKENS if actual is None else actual
        return num_tokens


def _actual(variable: Variable) -> int | None:
    """A variable's length, about, when its value is there."""
    if variable.token_ids is not None:
        return len(variable.token_ids)
    return None if variable.value is None else text_tokens(variable.value)
