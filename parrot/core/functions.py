"""Registered semantic functions: templates that the service keeps, so that calls may name them.

The registry is what a tenant's log of functions amounts to. Whatever depends on time or waits is done by
`executor.functions`; this reads and applies events.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from parrot.core.limits import Limits
from parrot.core.locations import at
from parrot.core.lowering import check_call
from parrot.errors import InvalidError, NotFoundError, OverLimitError, TemplateError, TooLargeError
from parrot.ports.store import Appended
from parrot.types.events import Event, FunctionRegistered, FunctionRemoved, SessionOpened
from parrot.types.ids import FUNCTION_PATTERN, SessionId, TenantId
from parrot.types.template import PlaceholderPiece, parse_template
from parrot.wire.functions import FunctionSpec
from parrot.wire.requests import (
    CallSpec,
    OutputParameter,
    OutputSpec,
    Parameter,
    SubmitCalls,
    ValueParameter,
)

LOG_PREFIX = "functions/"
"""Logs of functions are called so, and then the tenant; no session is."""


def log_of(tenant_id: TenantId) -> SessionId:
    """The log that a tenant's functions are stored in."""
    return SessionId(f"{LOG_PREFIX}{tenant_id}")


def is_log(log: Sequence[Appended]) -> bool:
    """Whether it is a log of functions, as against a session's."""
    return bool(log) and log[0].event.session_id.startswith(LOG_PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One version of a registered function."""

    tenant_id: TenantId
    name: str
    version: int
    spec: FunctionSpec
    num_bytes: int
    created_at: float
    """Wall clock, seconds."""

    @property
    def ref(self) -> str:
        """What a call names it by, for good."""
        return f"{self.name}@{self.version}"

    def placeholders(self) -> tuple[str, ...]:
        """Its inputs and outputs, in the order of the prompt."""
        texts = [self.spec.template or "", *(message.content for message in self.spec.messages or ())]
        pieces = (piece for text in texts for piece in parse_template(text))
        names = (piece.name for piece in pieces if isinstance(piece, PlaceholderPiece))
        return tuple(dict.fromkeys(names))

    def inputs(self) -> tuple[str, ...]:
        """Its inputs, in the order of the prompt."""
        return tuple(name for name in self.placeholders() if name not in self.spec.outputs)

    def as_call(self) -> CallSpec:
        """A call of it in which every input is empty: what it is checked by."""
        parameters: dict[str, Parameter] = {name: ValueParameter(value="") for name in self.inputs()}
        for name, output in self.spec.outputs.items():
            parameters[name] = OutputParameter(output=output)
        return CallSpec(
            template=self.spec.template,
            messages=self.spec.messages,
            model=self.spec.model,
            parameters=parameters,
        )


@dataclass(slots=True)
class _Tenant:
    """One tenant's functions."""

    functions: dict[str, list[Function]] = field(default_factory=dict)
    """Versions by name, oldest first."""
    last_versions: dict[str, int] = field(default_factory=dict)
    """Also of functions that were removed: their numbers do not come again."""

    def all(self) -> Iterable[Function]:
        return (function for versions in self.functions.values() for function in versions)


class FunctionRegistry:
    """Every tenant's registered functions. Threads may read it while the event loop applies events."""

    def __init__(self) -> None:
        self._tenants: dict[TenantId, _Tenant] = {}

    def has_log(self, tenant_id: TenantId) -> bool:
        """Whether the tenant's log was opened."""
        return tenant_id in self._tenants

    def names(self, tenant_id: TenantId) -> list[str]:
        """The names of a tenant's functions, in alphabetical order."""
        tenant = self._tenants.get(tenant_id)
        return sorted(tenant.functions) if tenant is not None else []

    def latest(self) -> list[Function]:
        """The latest version of every function of every tenant."""
        return [versions[-1] for tenant in self._tenants.values() for versions in tenant.functions.values()]

    def versions(self, tenant_id: TenantId, name: str) -> tuple[Function, ...]:
        """All versions of a function, oldest first; empty when there is none."""
        tenant = self._tenants.get(tenant_id)
        return tuple(tenant.functions.get(name, ())) if tenant is not None else ()

    def find(self, tenant_id: TenantId, ref: str) -> Function:
        """The function that `name` or `name@version` means.

        Raises:
            NotFoundError: `function_not_found`.
        """
        match = FUNCTION_PATTERN.match(ref)
        versions = self.versions(tenant_id, match[1]) if match else ()
        for function in reversed(versions):
            if match is not None and match[2] in (None, str(function.version)):
                return function
        raise NotFoundError(
            "no registered function is called so, or none of yours",
            code="function_not_found",
            param="function",
        )

    def check(
        self, tenant_id: TenantId, name: str, spec: FunctionSpec, limits: Limits, *, now_s: float
    ) -> Function:
        """The version that registering `spec` would make, or the latest one if it says the same already.

        Raises:
            TemplateError, InvalidError, TooLargeError: what a call of it would be refused for.
            OverLimitError: the tenant has as many as it may have.
        """
        versions = self.versions(tenant_id, name)
        if versions and versions[-1].spec == spec:
            return versions[-1]
        tenant = self._tenants.get(tenant_id, _Tenant())
        function = Function(
            tenant_id=tenant_id,
            name=name,
            version=tenant.last_versions.get(name, 0) + 1,
            spec=spec,
            num_bytes=len(encode_spec(spec).encode()),
            created_at=now_s,
        )
        _check_spec(function, limits)
        known = list(tenant.all())
        num_bytes = sum(each.num_bytes for each in known) + function.num_bytes
        if len(known) >= limits.max_functions or num_bytes > limits.max_functions_bytes:
            raise OverLimitError(
                f"{len(known):,} versions of functions with {num_bytes:,} bytes are registered; remove some",
                data={
                    "retry_after_s": 60,
                    "limit": limits.max_functions,
                    "limit_bytes": limits.max_functions_bytes,
                },
            )
        return function

    def replay(self, log: Sequence[Appended]) -> None:
        """Take in a log of functions, as it stands in the store."""
        opened = log[0].event
        assert isinstance(opened, SessionOpened), "a log begins with its opening"
        for appended in log:
            self.apply(opened.tenant_id, appended.event)

    def apply(self, tenant_id: TenantId, event: Event) -> None:
        """Take in one event that was committed."""
        tenant = self._tenants.setdefault(tenant_id, _Tenant())
        match event:
            case FunctionRegistered():
                function = Function(
                    tenant_id=tenant_id,
                    name=event.name,
                    version=event.version,
                    spec=FunctionSpec.model_validate_json(event.spec),
                    num_bytes=len(event.spec.encode()),
                    created_at=event.wall_s,
                )
                tenant.functions.setdefault(event.name, []).append(function)
                tenant.last_versions[event.name] = event.version
            case FunctionRemoved():
                tenant.functions.pop(event.name, None)
            case _:
                return

    def expand(self, tenant_id: TenantId, request: SubmitCalls, limits: Limits) -> SubmitCalls:
        """The submission with the registered template in every call that names a function.

        Raises:
            NotFoundError: `function_not_found`.
            InvalidError: a call that names a function and has a template too.
            TemplateError: `bad_parameter`: an input where the function has an output, or the other way round.
            TooLargeError: all templates together have more bytes than a request may have.
        """
        if all(call.function is None for call in request.calls):
            return request
        calls: list[CallSpec] = []
        num_bytes = 0
        for index, call in enumerate(request.calls):
            if call.function is None:
                calls.append(call)
                continue
            with at(f"calls[{index}]"):
                function = self.find(tenant_id, call.function)
                num_bytes += function.num_bytes
                if num_bytes > limits.max_batch_bytes:
                    raise TooLargeError(
                        f"with their templates, the calls have more than {limits.max_batch_bytes:,} bytes",
                        param="function",
                        data={"limit_bytes": limits.max_batch_bytes},
                    )
                calls.append(_expand(call, function))
        return SubmitCalls.model_construct(calls=tuple(calls))


def encode_spec(spec: FunctionSpec) -> str:
    """A function's specification as it is stored."""
    return spec.model_dump_json(by_alias=True, exclude_defaults=True)


def _check_spec(function: Function, limits: Limits) -> None:
    check_call(function.as_call(), limits)
    inputs = function.inputs()
    for name in function.spec.inputs:
        if name not in inputs:
            raise TemplateError(
                f"the input {name!r} has no placeholder {{{{{name}}}}}",
                code="unused_parameter",
                param=f"inputs.{name}",
            )
    for name, output in function.spec.outputs.items():
        if output.variable is not None:
            raise InvalidError(
                "a registered function names no variables; its calls do", param=f"outputs.{name}.variable"
            )


def _expand(call: CallSpec, function: Function) -> CallSpec:
    if call.template is not None or call.messages is not None:
        field = "template" if call.template is not None else "messages"
        raise InvalidError("a call has a template, messages or a function, one of them", param=field)
    spec = function.spec
    parameters: dict[str, Parameter] = {}
    for name in function.placeholders():
        given = call.parameters.get(name)
        default = spec.inputs[name].default if name in spec.inputs else None
        if name in spec.outputs:
            parameters[name] = OutputParameter(output=_output(name, spec.outputs[name], given))
        elif isinstance(given, OutputParameter):
            raise _wrong_kind(name, "an input")
        elif given is not None:
            parameters[name] = given
        elif default is not None:
            parameters[name] = ValueParameter(value=default)
    parameters.update({name: given for name, given in call.parameters.items() if name not in parameters})
    return call.model_copy(
        update={
            "function": function.ref,
            "template": spec.template,
            "messages": spec.messages,
            "model": call.model or spec.model,
            "parameters": parameters,
        }
    )


def _output(name: str, registered: OutputSpec, given: Parameter | None) -> OutputSpec:
    """An output as registered, with what the call says in place of it."""
    if given is None:
        return registered
    if not isinstance(given, OutputParameter):
        raise _wrong_kind(name, "an output")
    said = given.output.model_fields_set - {"sampling"}
    update: dict[str, object] = {field: getattr(given.output, field) for field in said}
    sampling = given.output.sampling
    if sampling.model_fields_set:
        fields = {field: getattr(sampling, field) for field in sampling.model_fields_set}
        # Of its own kind: what the service itself adds to a call's sampling is kept.
        update["sampling"] = type(sampling).model_validate({**registered.sampling.model_dump(), **fields})
    return registered.model_copy(update=update)


def _wrong_kind(name: str, kind: str) -> TemplateError:
    return TemplateError(
        f"{name!r} is {kind} of the registered function", code="bad_parameter", param=f"parameters.{name}"
    )
