"""One session's application graph: calls linked by the variables between them (paper, section 4.2).

    call ──produces──> variable ──consumed by──> call

A call waits until its inputs are ready, and fails with the first of them that fails. What the graph promises
is numbered in `docs/invariants.md` (G1 to G10). Every operation costs no more than the part of the graph that
it changes, and none recurses, so that a chain of 10,000 calls is nothing special.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

from parrot.core.limits import Limits
from parrot.core.topology import downstream, find_cycle, restage
from parrot.core.variables import Variable
from parrot.errors import (
    ConflictError,
    GraphError,
    InvalidError,
    NotFoundError,
    OverLimitError,
    TooLargeError,
)
from parrot.types.events import Failure, NewVariable
from parrot.types.ids import CallId, VariableId
from parrot.types.program import Program

CallState = Literal["waiting", "ready", "running", "done", "failed", "cancelled"]

Stages = Mapping[CallId, int]
"""The stage of each call that is new, or that new calls move."""

CALL_STATES: tuple[CallState, ...] = ("waiting", "ready", "running", "done", "failed", "cancelled")
RETRY_AFTER_S = 1.0
"""When a client that has too many unfinished calls is told to try again."""
_MAX_CYCLE_NAMES = 6
_ENDED = frozenset({"done", "failed", "cancelled"})
_READY: frozenset[CallState] = frozenset({"ready"})
_RUNNING: frozenset[CallState] = frozenset({"running"})
_UNDER_WAY = _READY | _RUNNING


class Call(Struct, kw_only=True):
    """A node of the application graph."""

    call_id: CallId
    name: str
    program: Program | None
    """The lowered prompt, for whoever runs the call; the graph itself does not look into it."""
    inputs: Mapping[str, VariableId]
    """Placeholder → variable."""
    outputs: Mapping[str, VariableId]
    state: CallState = "waiting"
    stage: int = 0
    """Calls on the longest path that leads here."""
    num_missing: int = 0
    """Distinct inputs that are still pending; kept while it waits."""

    @property
    def ended(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.state in _ENDED


class NewCall(Struct, kw_only=True):
    """A call to be added."""

    call_id: CallId
    name: str
    inputs: Mapping[str, VariableId]
    outputs: Mapping[str, VariableId]
    program: Program | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What one failure ended."""

    variables: tuple[tuple[VariableId, Failure], ...] = ()
    """Variables that failed, each with its own failure."""
    calls: tuple[CallId, ...] = ()
    """Calls that ended, in topological order."""


_NOTHING = Spread()


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What became of new calls, beyond waiting."""

    ready: tuple[CallId, ...]
    failed: Spread
    """Calls that had a failed input from the start, and what that ended."""


class ApplicationGraph:
    """The calls and variables of one session."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._calls: dict[CallId, Call] = {}
        self._variables: dict[VariableId, Variable] = {}
        self._variable_names: dict[str, VariableId] = {}
        self._call_names: dict[str, CallId] = {}
        self._counts: dict[CallState, int] = dict.fromkeys(CALL_STATES, 0)
        self.calls: Mapping[CallId, Call] = MappingProxyType(self._calls)
        """All calls in the order in which they were added; a view."""
        self.variables: Mapping[VariableId, Variable] = MappingProxyType(self._variables)
        """All variables in the order in which they came to be; a view."""
        self.counts: Mapping[CallState, int] = MappingProxyType(self._counts)
        """How many calls are in each state; a view."""

    def set_limits(self, limits: Limits) -> None:
        """Check additions against other limits from now on."""
        self._limits = limits

    def variable(self, reference: str) -> Variable:
        """The variable with this id or name; raises `NotFoundError`."""
        found = self.find(reference)
        if found is None:
            raise NotFoundError("there is no such variable in this session")
        return found

    def find(self, reference: str) -> Variable | None:
        """The variable with this id or name."""
        return self._variables.get(VariableId(reference)) or self.find_name(reference)

    def call(self, reference: str) -> Call:
        """The call with this id, or the last one with this name; raises `NotFoundError`."""
        found = self._calls.get(CallId(reference)) or self.find_call_name(reference)
        if found is None:
            raise NotFoundError("there is no such call in this session")
        return found

    def find_name(self, name: str) -> Variable | None:
        """The variable with this name."""
        variable_id = self._variable_names.get(name)
        return None if variable_id is None else self._variables[variable_id]

    def find_call_name(self, name: str) -> Call | None:
        """The last call with this name; names are unique within a batch only."""
        call_id = self._call_names.get(name)
        return None if call_id is None else self._calls[call_id]

    def producer(self, variable_id: VariableId) -> Call | None:
        """The call that has the variable as an output; None when a client sets it."""
        variable = self._variables.get(variable_id) or self.variable(variable_id)
        return None if variable.producer is None else self._calls[variable.producer]

    def consumers(self, variable_id: VariableId) -> tuple[Call, ...]:
        """The calls that have the variable as an input."""
        variable = self._variables.get(variable_id) or self.variable(variable_id)
        return tuple([self._calls[call_id] for call_id in variable.consumers])

    def edges(self) -> Iterator[tuple[CallId, CallId, VariableId]]:
        """Every flow of a variable from the call that produces it to one that consumes it."""
        for variable in self._variables.values():
            if variable.producer is not None:
                for consumer in variable.consumers:
                    yield variable.producer, consumer, variable.variable_id

    def check(self, calls: Sequence[NewCall], variables: Sequence[NewVariable | Variable]) -> Stages:
        """Raise what `add` would raise; what it gives is good for `add` while no call comes in between."""
        return self._plan(calls, variables)

    def add(
        self,
        calls: Sequence[NewCall],
        variables: Sequence[NewVariable | Variable],
        *,
        checked: Stages | None = None,
    ) -> Added:
        """Add calls together with the variables that come with them: all or, when it raises, nothing.

        A call may consume what another of the batch, or a later one, produces. A `Variable` among the new
        ones is taken as it is. `checked` is what `check` gave of the same; it is not checked again.

        Raises:
            GraphError: `cycle`, `fan_in`, `too_deep_graph`.
            ConflictError: `already_produced`.
            OverLimitError: `over_limit`: too many calls of the session have not ended.
            InvalidError: `too_many` calls or variables.
        """
        stages = self._plan(calls, variables) if checked is None else checked
        for variable in variables:
            if isinstance(variable, Variable):
                self._take(variable)
            else:
                self._create(variable.variable_id, variable.name, variable.value)
        added = [self._link(call) for call in calls]
        for call_id, stage in stages.items():
            self._calls[call_id].stage = stage
        return self._settle(added)

    def put(self, variable_id: VariableId, name: str | None, value: str) -> tuple[CallId, ...]:
        """A client sets an input, which may be new; returns the calls that became ready.

        Raises:
            ConflictError: `already_produced`, or `already_set` to another value; the same again is fine.
            TooLargeError: `too_large`.
            InvalidError: `too_many` variables.
        """
        self.check_put(variable_id, value)
        if variable_id in self._variables:
            return self.resolve(variable_id, value) or ()
        self._create(variable_id, name, value)
        return ()

    def check_put(self, variable_id: VariableId, value: str) -> None:
        """Raise what `put` would raise."""
        num_bytes = len(value.encode())
        if num_bytes > self._limits.max_value_bytes:
            raise TooLargeError(
                f"a value may have {self._limits.max_value_bytes:,} bytes, this one has {num_bytes:,}",
                param="value",
                data={"limit_bytes": self._limits.max_value_bytes},
            )
        variable = self._variables.get(variable_id)
        if variable is None:
            self._check_num_variables(1)
            return
        label = variable.name or variable_id
        if variable.producer is not None:
            message = f"a call produces variable {label!r}, it cannot be set"
            raise ConflictError(message, code="already_produced")
        if variable.state == "failed":
            raise ConflictError(f"variable {label!r} has failed already", code="already_set")
        if variable.state == "ready" and variable.value != value:
            message = f"variable {label!r} is set already, to another value"
            raise ConflictError(message, code="already_set")

    def resolve(
        self,
        variable_id: VariableId,
        value: str,
        *,
        token_ids: tuple[int, ...] | None = None,
        model_hash: str | None = None,
    ) -> tuple[CallId, ...] | None:
        """Give a variable its value; returns the calls that became ready, or None if it had ended before."""
        variable = self._variables[variable_id]
        if not variable.set_ready(value, token_ids=token_ids, model_hash=model_hash):
            return None
        ready: list[CallId] = []
        for call_id in variable.consumers:
            call = self._calls[call_id]
            if call.state == "waiting":
                call.num_missing -= 1
                if call.num_missing == 0:
                    self._move(call, "ready")
                    ready.append(call.call_id)
        return tuple(ready)

    def fail(self, variable_id: VariableId, failure: Failure) -> Spread:
        """Fail a variable and everything that waits for it.

        Each waiting consumer fails, and its outputs fail with `upstream_failed`, whose data name the first
        failure: `root` its code, `root_variable` where it was, `message` what it said. What waited for
        something that was cancelled is cancelled. A call that runs or has ended is left alone.
        """
        variable = self._variables[variable_id]
        if not variable.set_failed(failure):
            return Spread()
        return self._spread([(variable, failure)], [])

    def fail_call(
        self, call_id: CallId, failure: Failure, *, state: Literal["failed", "cancelled"] = "failed"
    ) -> Spread:
        """End a call; those of its outputs that are pending fail with `failure`, and that spreads.

        The call itself is the first in the answer; the answer is empty when it had ended before.
        """
        call = self._calls[call_id]
        if call.ended:
            return Spread()
        self._move(call, state)
        outputs = [self._variables[variable_id] for variable_id in call.outputs.values()]
        return self._spread([(v, failure) for v in outputs if v.set_failed(failure)], [call])

    def start(self, call_id: CallId) -> None:
        """A ready call begins to run."""
        self._step(call_id, _READY, "running")

    def requeue(self, call_id: CallId) -> None:
        """A running call is to run again."""
        self._step(call_id, _RUNNING, "ready")

    def finish(self, call_id: CallId) -> None:
        """A call has produced all its outputs; they have ended."""
        call = self._calls[call_id]
        for variable_id in call.outputs.values():
            assert self._variables[variable_id].state != "pending", f"{call_id} leaves outputs pending"
        self._step(call_id, _UNDER_WAY, "done")

    def branch(self, calls: Iterable[CallId], variables: Iterable[VariableId]) -> tuple[CallId, ...]:
        """What a cancel of these calls and variables ends, in topological order: the calls, the variables'
        producers, and everything downstream of them, as far as it has not ended.

        Raises `NotFoundError`.
        """
        sources = [self.call(call_id) for call_id in calls]
        for variable_id in variables:
            producer = self.producer(variable_id)
            sources.extend([producer] if producer is not None else self.consumers(variable_id))
        reached = downstream(
            (call.call_id for call in sources), _Overlay(self._calls, self._variables).successors
        )
        return self._in_order(self._calls[call_id] for call_id in reached if not self._calls[call_id].ended)

    def _plan(self, calls: Sequence[NewCall], variables: Sequence[NewVariable | Variable]) -> Stages:
        """Check an addition without changing anything; gives the stages it brings."""
        self._check_limits(calls, variables)
        self._check_producers(calls)
        names = [variable.name for variable in variables if variable.name is not None]
        assert len(set(names)) == len(names), "one name stands for one variable"
        assert self._variable_names.keys().isdisjoint(names), "a name is bound to the variable that has it"
        stages = self._stages_in_order(calls)
        if stages is None:
            stages = self._stages(calls)
        depth = max(stages.values(), default=0) + 1
        if depth > self._limits.max_graph_depth:
            raise GraphError(
                f"a chain may have {self._limits.max_graph_depth:,} calls, this one would have {depth:,}",
                code="too_deep_graph",
                param="calls",
            )
        return stages

    def _stages_in_order(self, calls: Sequence[NewCall]) -> Stages | None:
        """The stages of calls each of which consumes what calls before it produce, and nobody waits for them
        yet, as it mostly is; None when it is otherwise.
        """
        stages: dict[CallId, int] = {}
        produced: dict[VariableId, int] = {}
        not_yet: set[VariableId] = set()
        for call in calls:
            stage = 0
            for variable_id in call.inputs.values():
                before = produced.get(variable_id)
                if before is None:
                    known = self._variables.get(variable_id)
                    if known is None or known.producer is None:
                        not_yet.add(variable_id)
                        continue
                    before = self._calls[known.producer].stage
                if before >= stage:
                    stage = before + 1
            for variable_id in call.outputs.values():
                known = self._variables.get(variable_id)
                if variable_id in not_yet or (known is not None and known.consumers):
                    return None
                produced[variable_id] = stage
            stages[call.call_id] = stage
        return stages

    def _stages(self, calls: Sequence[NewCall]) -> Stages:
        """The stages of calls in any order, and of those that have waited for them; raises for cycles."""
        grown = _Overlay(self._calls, self._variables, calls)
        affected = downstream((call.call_id for call in calls), grown.successors)
        stages = restage(
            affected, grown.successors, grown.predecessors, lambda call_id: self._calls[call_id].stage
        )
        unstaged = [call_id for call_id in affected if call_id not in stages]
        if unstaged:
            positions = {call.call_id: index for index, call in enumerate(calls)}
            cycle = find_cycle(unstaged, grown.predecessors)
            index = min(positions[call_id] for call_id in cycle if call_id in positions)
            names = [grown.node(call_id).name for call_id in cycle]
            shown = names[:_MAX_CYCLE_NAMES] + (["…"] if len(names) > _MAX_CYCLE_NAMES else [])
            raise GraphError(
                f"calls would wait for each other: {' → '.join([*shown, names[0]])}",
                code="cycle",
                param=f"calls[{index}]",
            )
        return stages

    def _check_limits(self, calls: Sequence[NewCall], variables: Sequence[NewVariable | Variable]) -> None:
        limits = self._limits
        if len(calls) > limits.max_batch_calls:
            raise _too_many("calls of one submission", limits.max_batch_calls)
        if len(self._calls) + len(calls) > limits.max_session_calls:
            raise _too_many("calls of one session", limits.max_session_calls)
        self._check_num_variables(len(variables))
        num_unfinished = self._counts["waiting"] + self._counts["ready"] + self._counts["running"]
        if num_unfinished + len(calls) > limits.max_pending_calls:
            raise OverLimitError(
                f"a session may have {limits.max_pending_calls:,} unfinished calls, has {num_unfinished:,}; "
                f"{len(calls):,} were to be added: wait until some have ended",
                param="calls",
                data={"retry_after_s": RETRY_AFTER_S},
            )
        for index, call in enumerate(calls):
            fan_in = len(call.inputs)
            if fan_in > limits.max_fan_in and (fan_in := len(set(call.inputs.values()))) > limits.max_fan_in:
                raise GraphError(
                    f"a call may consume {limits.max_fan_in:,} variables, this one consumes {fan_in:,}",
                    code="fan_in",
                    param=f"calls[{index}].parameters",
                )

    def _check_num_variables(self, num_new: int) -> None:
        if len(self._variables) + num_new > self._limits.max_session_variables:
            raise _too_many("variables of one session", self._limits.max_session_variables)

    def _check_producers(self, calls: Sequence[NewCall]) -> None:
        produced: set[VariableId] = set()
        for index, call in enumerate(calls):
            for placeholder, variable_id in call.outputs.items():
                known = self._variables.get(variable_id)
                if variable_id in produced or (known and (known.producer or known.state != "pending")):
                    raise ConflictError(
                        "the variable has a producer or a value already",
                        code="already_produced",
                        param=f"calls[{index}].parameters.{placeholder}",
                    )
                produced.add(variable_id)

    def _create(self, variable_id: VariableId, name: str | None, value: str | None) -> None:
        assert variable_id not in self._variables, f"{variable_id} exists already"
        assert name is None or name not in self._variable_names, f"{name} exists already"
        variable = Variable(variable_id=variable_id, name=name)
        if value is not None:
            variable.set_ready(value)
        self._take(variable)

    def _take(self, variable: Variable) -> None:
        self._variables[variable.variable_id] = variable
        if variable.name is not None:
            self._variable_names[variable.name] = variable.variable_id

    def _link(self, new: NewCall) -> Call:
        assert new.call_id not in self._calls, f"{new.call_id} exists already"
        call = Call(
            call_id=new.call_id,
            name=new.name,
            program=new.program,
            inputs=new.inputs,
            outputs=new.outputs,
        )
        self._calls[call.call_id] = call
        self._call_names[call.name] = call.call_id
        self._counts[call.state] += 1
        for variable_id in call.outputs.values():
            self._variables[variable_id].producer = call.call_id
        for variable_id in _distinct(call.inputs):
            self._variables[variable_id].consumers.append(call.call_id)
        return call

    def _settle(self, calls: Sequence[Call]) -> Added:
        """Find out which of the new calls are ready, and which have no chance."""
        ready: list[CallId] = []
        failed: list[tuple[Variable, Failure]] = []
        ended: list[Call] = []
        for call in calls:
            num_missing = 0
            for variable_id in _distinct(call.inputs):
                variable = self._variables[variable_id]
                if variable.failure is not None:
                    failed.extend(self._end_waiting(call, _passed_on(variable, variable.failure)))
                    ended.append(call)
                    break
                num_missing += variable.state == "pending"
            else:
                call.num_missing = num_missing
                if num_missing == 0:
                    self._move(call, "ready")
                    ready.append(call.call_id)
        return Added(ready=tuple(ready), failed=self._spread(failed, ended) if ended else _NOTHING)

    def _spread(self, failed: Iterable[tuple[Variable, Failure]], ended: list[Call]) -> Spread:
        """Fail what waits for variables that have just failed."""
        variables: list[tuple[VariableId, Failure]] = []
        queue = deque(failed)
        while queue:
            variable, failure = queue.popleft()
            variables.append((variable.variable_id, failure))
            for call in self.consumers(variable.variable_id):
                if call.state == "waiting":
                    queue.extend(self._end_waiting(call, _passed_on(variable, failure)))
                    ended.append(call)
        return Spread(variables=tuple(variables), calls=self._in_order(ended))

    def _end_waiting(self, call: Call, failure: Failure) -> list[tuple[Variable, Failure]]:
        self._move(call, "cancelled" if failure.data.get("root") == "cancelled" else "failed")
        outputs = (self._variables[variable_id] for variable_id in call.outputs.values())
        return [(variable, failure) for variable in outputs if variable.set_failed(failure)]

    def _in_order(self, calls: Iterable[Call]) -> tuple[CallId, ...]:
        """Topological order: every edge leads to a higher stage."""
        return tuple(call.call_id for call in sorted(calls, key=lambda call: call.stage))

    def _step(self, call_id: CallId, before: frozenset[CallState], after: CallState) -> None:
        call = self._calls[call_id]
        assert call.state in before, f"{call_id} is {call.state}, it cannot become {after}"
        self._move(call, after)

    def _move(self, call: Call, state: CallState) -> None:
        self._counts[call.state] -= 1
        self._counts[state] += 1
        call.state = state


class _Overlay:
    """The graph's edges as they would be with new calls in it."""

    def __init__(
        self,
        calls: Mapping[CallId, Call],
        variables: Mapping[VariableId, Variable],
        new_calls: Sequence[NewCall] = (),
    ) -> None:
        self._calls = calls
        self._variables = variables
        self._new_calls = {call.call_id: call for call in new_calls}
        self._new_producers: dict[VariableId, CallId] = {}
        self._new_consumers: dict[VariableId, list[CallId]] = {}
        for call in new_calls:
            for variable_id in call.outputs.values():
                self._new_producers[variable_id] = call.call_id
            for variable_id in call.inputs.values():
                self._new_consumers.setdefault(variable_id, []).append(call.call_id)

    def node(self, call_id: CallId) -> Call | NewCall:
        return self._new_calls.get(call_id) or self._calls[call_id]

    def successors(self, call_id: CallId) -> Iterator[CallId]:
        for variable_id in self.node(call_id).outputs.values():
            if variable_id in self._variables:
                yield from self._variables[variable_id].consumers
            yield from self._new_consumers.get(variable_id, ())

    def predecessors(self, call_id: CallId) -> Iterator[CallId]:
        for variable_id in self.node(call_id).inputs.values():
            producer = self._new_producers.get(variable_id)
            if producer is None and variable_id in self._variables:
                producer = self._variables[variable_id].producer
            if producer is not None:
                yield producer


def _distinct(inputs: Mapping[str, VariableId]) -> Iterable[VariableId]:
    """A call's inputs, each once, in order."""
    values = inputs.values()
    return values if len(inputs) < 2 else dict.fromkeys(values)


def _passed_on(variable: Variable, failure: Failure) -> Failure:
    """What a variable's failure is to the calls that wait for it; the first failure stays named."""
    if failure.code == "upstream_failed":
        return failure
    root = variable.name or variable.variable_id
    return Failure(
        code="upstream_failed",
        message=f"{root}, which the call needs, has failed: {failure.message}",
        data={"root": failure.code, "root_variable": root, "message": failure.message},
    )


def _too_many(what: str, limit: int) -> InvalidError:
    return InvalidError(f"{what} are limited to {limit:,}", code="too_many", param="calls")
