"""How much work each open call is expected to be, kept up to date as values and measurements come in."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

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
from parrot.types.ids import CallId, VariableId


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
        self._lengths = lengths
        self._shape = shape
        self._shapes: dict[CallId, CallShape] = {}
        self._work: dict[CallId, Work] = {}
        self._tokens: dict[VariableId, int] = {}
        """The lengths with which variables count, in the work of all their consumers alike."""
        self._measured: dict[CallId, int] = {}
        """Tokens of prompts that have been written."""
        self.total = Work()
        """The work of all open calls."""

    @property
    def calls(self) -> Mapping[CallId, Work]:
        """The work of each open call; a view."""
        return MappingProxyType(self._work)

    def outputs(self, call_id: CallId) -> tuple[OutputShape, ...]:
        """The outputs of an open call, as far as they are known."""
        shape = self._shapes.get(call_id)
        return () if shape is None else shape.outputs

    def added(self, call_ids: Iterable[CallId]) -> set[CallId]:
        """The graph has these new calls. Returns the calls whose work is new or has changed."""
        opened = [call_id for call_id in call_ids if is_open(self._graph, self._graph.calls[call_id])]
        changed = set(opened)
        for call_id in opened:
            self._shapes[call_id] = self._shape(call_id)
            for output in self._pending(call_id):
                changed |= self._set_tokens(output.variable_id, self._lengths.expected(output))
        for call_id in opened:
            self._set_work(call_id, self._estimate(call_id))
        return changed

    def refresh(self, call_id: CallId) -> set[CallId]:
        """Take a call's shape anew, and what is known of its outputs' lengths by now. Returns the calls whose
        work has changed.
        """
        return self.added([call_id]) if call_id in self._work else set()

    def measured(self, call_id: CallId, prompt_tokens: int) -> set[CallId]:
        """A call's prompt has been written. Returns the calls whose work has changed."""
        if call_id not in self._work:
            return set()
        self._measured[call_id] = prompt_tokens
        self._set_work(call_id, self._estimate(call_id))
        return {call_id}

    def resolved(self, variable_id: VariableId) -> set[CallId]:
        """A variable has become ready or failed. Returns the calls whose work has changed."""
        changed: set[CallId] = set()
        producer = self._graph.producer(variable_id)
        if producer is not None and producer.call_id in self._work:
            if is_open(self._graph, producer):
                self._set_work(producer.call_id, self._estimate(producer.call_id))
                changed.add(producer.call_id)
            else:
                self.ended(producer.call_id)
        num_tokens = self._actual(variable_id)
        return changed if num_tokens is None else changed | self._set_tokens(variable_id, num_tokens)

    def ended(self, call_id: CallId) -> None:
        """A call has nothing more to produce."""
        work = self._work.pop(call_id, None)
        if work is None:
            return
        self.total -= work
        del self._shapes[call_id]
        self._measured.pop(call_id, None)

    def _set_work(self, call_id: CallId, work: Work) -> None:
        self.total = self.total - self._work.get(call_id, Work()) + work
        self._work[call_id] = work

    def _set_tokens(self, variable_id: VariableId, num_tokens: int) -> set[CallId]:
        """A variable has, or is expected to have, another length: its open consumers' prompts follow."""
        before = self._counted(variable_id)
        self._tokens[variable_id] = num_tokens
        changed: set[CallId] = set()
        if num_tokens == before:
            return changed
        for consumer in self._graph.variables[variable_id].consumers:
            if consumer in self._work and consumer not in self._measured:
                more = (num_tokens - before) * self._shapes[consumer].inputs.get(variable_id, 0)
                self._set_work(consumer, self._work[consumer] + Work(prompt_tokens=more))
                changed.add(consumer)
        return changed

    def _estimate(self, call_id: CallId) -> Work:
        prompt_tokens = self._measured.get(call_id)
        if prompt_tokens is None:
            shape = self._shapes[call_id]
            inputs = (count * self._counted(variable_id) for variable_id, count in shape.inputs.items())
            prompt_tokens = shape.constant_tokens + sum(inputs)
        output_tokens = sum(self._counted(output.variable_id) for output in self._pending(call_id))
        return Work(prompt_tokens=prompt_tokens, output_tokens=output_tokens)

    def _pending(self, call_id: CallId) -> Iterator[OutputShape]:
        variables = self._graph.variables
        return (o for o in self._shapes[call_id].outputs if variables[o.variable_id].state == "pending")

    def _counted(self, variable_id: VariableId) -> int:
        """The length with which a variable counts, settled when it is first asked for."""
        num_tokens = self._tokens.get(variable_id)
        if num_tokens is None:
            actual = self._actual(variable_id)
            num_tokens = self._tokens[variable_id] = UNKNOWN_INPUT_TOKENS if actual is None else actual
        return num_tokens

    def _actual(self, variable_id: VariableId) -> int | None:
        variable = self._graph.variables[variable_id]
        if variable.token_ids is not None:
            return len(variable.token_ids)
        return None if variable.value is None else text_tokens(variable.value)
