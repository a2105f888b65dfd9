"""Names become identifiers, before anything of a submission is stored.

{"variable": "var_…"}    that variable, which exists
{"variable": "doc"}      the variable of that name: one that exists, an output of the same submission, or
                         a new one, which waits for a client or a later call
{"value": "…"}           a new variable without a name, ready from the start
{"output": {…}}          a new variable, or one of that name for which somebody waits already
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parrot.core.graph import ApplicationGraph
from parrot.core.limits import Limits
from parrot.core.locations import at
from parrot.errors import ConflictError, GraphError, InvalidError, NotFoundError, TooLargeError
from parrot.types.events import NewVariable, SubmittedCall
from parrot.types.ids import ID_PATTERN, NAME_PATTERN, IdSource, VariableId, call_id, variable_id
from parrot.wire.requests import (
    CallSpec,
    OutputParameter,
    Parameter,
    SubmitCalls,
    TokensParameter,
    ValueParameter,
    VariableParameter,
)
from parrot.wire.runs import GivenVariable


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A submission with identifiers in place of names: what is stored, and what the graph is given."""

    calls: tuple[SubmittedCall, ...]
    variables: tuple[NewVariable, ...]
    tokens: Mapping[VariableId, TokensParameter]
    """Of new variables whose tokens are given."""
    named: Mapping[str, VariableId]
    """Named variables that the submission creates or produces."""


def bind(
    graph: ApplicationGraph,
    request: SubmitCalls,
    *,
    fresh: IdSource,
    limits: Limits,
    given: Sequence[GivenVariable] = (),
) -> Bound:
    """Give every call and every new variable, those `given` with a value first, its identifier; nothing is
    changed.

    A stored call's inline values are replaced by the variables that hold them, so that they are stored once.

    Raises:
        GraphError: `duplicate_name`.
        ConflictError: `already_produced`, or `already_set`: a given variable that is there already.
        NotFoundError: `not_found`.
        TooLargeError: `too_large`: a value, or a call as a whole.
        InvalidError: `too_many` calls.
    """
    if len(request.calls) > limits.max_batch_calls:
        message = f"one submission may have {limits.max_batch_calls:,} calls"
        raise InvalidError(message, code="too_many", param="calls")
    names = _call_names(graph, request.calls)
    binder = _Binder(graph, fresh, limits)
    for index, variable in enumerate(given):
        with at(f"variables[{index}]"):
            binder.bind_given(variable)
    for index, spec in enumerate(request.calls):
        with at(f"calls[{index}].parameters"):
            binder.bind_outputs(index, spec)
    calls: list[SubmittedCall] = []
    for index, (spec, name) in enumerate(zip(request.calls, names, strict=True)):
        with at(f"calls[{index}]"):
            calls.append(binder.bind_call(index, spec, name))
    return Bound(
        calls=tuple(calls),
        variables=tuple(binder.new_variables),
        tokens=binder.tokens,
        named=binder.named,
    )


def _call_names(graph: ApplicationGraph, specs: Sequence[CallSpec]) -> list[str]:
    """Each call's name; those without get one that says which call of the session they are."""
    taken: set[str] = set()
    for index, spec in enumerate(specs):
        if spec.name in taken:
            raise GraphError(
                f"two calls of one submission have the name {spec.name!r}",
                code="duplicate_name",
                param=f"calls[{index}].name",
            )
        if spec.name is not None:
            taken.add(spec.name)
    names: list[str] = []
    for number, spec in enumerate(specs, start=len(graph.calls)):
        name = spec.name or f"call_{number}"
        while spec.name is None and (name in taken or graph.find_call_name(name) is not None):
            name += "_"
        taken.add(name)
        names.append(name)
    return names


class _Binder:
    """Binds the calls of one submission: first all outputs, then each call's inputs."""

    def __init__(self, graph: ApplicationGraph, fresh: IdSource, limits: Limits) -> None:
        self._graph = graph
        self._fresh = fresh
        self._limits = limits
        self.named: dict[str, VariableId] = {}
        """As in `Bound`."""
        self._outputs: list[Mapping[str, VariableId]] = []
        self.new_variables: list[NewVariable] = []
        self.tokens: dict[VariableId, TokensParameter] = {}

    def bind_given(self, given: GivenVariable) -> None:
        """Bind a new variable that has its value at once."""
        if given.variable in self.named or self._graph.find_name(given.variable) is not None:
            raise ConflictError(f"there is a variable {given.variable!r} already", code="already_set")
        self.named[given.variable] = self._bind_value(given.value, given.variable)

    def bind_outputs(self, index: int, spec: CallSpec) -> None:
        """Bind the outputs of the call at `index`; calls come in order."""
        assert index == len(self._outputs), "outputs are bound in order"
        bound: dict[str, VariableId] = {}
        for placeholder, parameter in spec.parameters.items():
            if isinstance(parameter, OutputParameter):
                with at(placeholder):
                    bound[placeholder] = self._bind_output(parameter.output.variable)
        self._outputs.append(bound)

    def bind_call(self, index: int, spec: CallSpec, name: str) -> SubmittedCall:
        """Bind the inputs of the call at `index`, whose outputs are bound."""
        inputs: dict[str, VariableId] = {}
        stored: dict[str, Parameter] = dict(spec.parameters)
        num_bytes = 0
        for placeholder, parameter in spec.parameters.items():
            with at(f"parameters.{placeholder}"):
                match parameter:
                    case ValueParameter():
                        num_bytes += len(parameter.value.encode())
                        inputs[placeholder] = self._bind_value(parameter.value)
                        stored[placeholder] = VariableParameter(variable=inputs[placeholder])
                        if isinstance(parameter, TokensParameter):
                            self.tokens[inputs[placeholder]] = parameter
                    case VariableParameter():
                        inputs[placeholder] = self._bind_reference(parameter.variable)
                    case OutputParameter():
                        pass
        text = spec.model_copy(update={"parameters": stored}).model_dump_json(
            exclude_defaults=True, by_alias=True
        )
        num_bytes += len(text.encode())
        if num_bytes > self._limits.max_call_bytes:
            raise _too_large("call", num_bytes, self._limits.max_call_bytes)
        return SubmittedCall(
            call_id=call_id(self._fresh), name=name, spec=text, inputs=inputs, outputs=self._outputs[index]
        )

    def _bind_output(self, name: str | None) -> VariableId:
        if name is None:
            return self._create(None)
        known = self._graph.find_name(name)
        if name in self.named or (known and (known.producer or known.state != "pending")):
            raise ConflictError(
                f"the variable {name!r} has a producer or a value already", code="already_produced"
            )
        self.named[name] = known.variable_id if known else self._create(name)
        return self.named[name]

    def _bind_value(self, value: str, name: str | None = None) -> VariableId:
        num_bytes = len(value.encode())
        if num_bytes > self._limits.max_value_bytes:
            raise _too_large("value", num_bytes, self._limits.max_value_bytes)
        return self._create(name, value)

    def _bind_reference(self, reference: str) -> VariableId:
        known = self._graph.variables.get(VariableId(reference)) or self._graph.find_name(reference)
        if known is not None:
            return known.variable_id
        if reference in self.named:
            return self.named[reference]
        if ID_PATTERN.match(reference) or not NAME_PATTERN.match(reference):
            raise NotFoundError("there is no such variable in this session")
        self.named[reference] = self._create(reference)
        return self.named[reference]

    def _create(self, name: str | None, value: str | None = None) -> VariableId:
        created = variable_id(self._fresh)
        self.new_variables.append(NewVariable(variable_id=created, name=name, value=value))
        return created


def _too_large(what: str, num_bytes: int, limit_bytes: int) -> TooLargeError:
    return TooLargeError(
        f"a {what} may have {limit_bytes:,} bytes, this one has {num_bytes:,}",
        data={"limit_bytes": limit_bytes},
    )
