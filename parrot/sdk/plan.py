"""A semantic function's declaration, checked once and ready to make calls from."""

import difflib
import inspect
import re
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from parrot.errors import CallError, SemanticFunctionError, TemplateError
from parrot.sdk.markers import Input, Join, Output, Pattern, Schema
from parrot.sdk.messages import Message
from parrot.sdk.source import SourceText, docstring_source
from parrot.types.ids import NAME_PATTERN
from parrot.types.program import (
    JsonTransform,
    RegexTransform,
    StripTransform,
    TemplateTransform,
    Transform,
)
from parrot.types.sampling import Sampling
from parrot.types.template import Piece, PlaceholderPiece, TextPiece, parse_template, write_template
from parrot.wire.requests import CallSpec, SamplingSpec

_TRANSFORM_TYPES: dict[type[Transform], str] = {
    StripTransform: "strip",
    RegexTransform: "regex",
    JsonTransform: "json",
    TemplateTransform: "template",
}

_MEMBER_PREFIX_CHARS = 56

Parse = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPlan:
    """One output of a function."""

    spec: Mapping[str, object]
    """As the wire has it, without the variable's name."""
    parse: Parse | None
    """From the variable's text to the declared type; None for text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What the decorator says for the whole function."""

    name: str | None = None
    model: str | None = None
    messages: tuple[Message, ...] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    transforms: tuple[Transform, ...] = ()
    result: type[Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionPlan:
    """A checked declaration."""

    name: str
    model: str | None
    prompt: Mapping[str, object]
    """`{"template": …}` or `{"messages": […]}`."""
    signature: inspect.Signature
    """Of a call: the inputs, with their defaults."""
    joins: Mapping[str, Join]
    """The inputs that take lists."""
    outputs: Mapping[str, OutputPlan]
    result: Callable[..., Any] | None
    """Makes a named tuple of several outputs; None for a single one."""

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Mapping[str, object]:
        """Inputs by name, defaults filled in.

        Raises:
            TypeError: missing, unknown or repeated arguments.
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}(): {error}") from None
        bound.apply_defaults()
        return bound.arguments

    def expand(self, arguments: Mapping[str, object]) -> tuple[Mapping[str, object], Mapping[str, object]]:
        """The prompt and its inputs, with a placeholder for each member of a list.

        Raises:
            TypeError: no list where one is needed.
        """
        if not self.joins:
            return self.prompt, arguments
        taken = {*self.signature.parameters, *self.outputs}
        inputs: dict[str, object] = {}
        members: dict[str, list[str]] = {}
        for name, value in arguments.items():
            if name not in self.joins:
                inputs[name] = value
                continue
            if not isinstance(value, (list, tuple)):
                raise TypeError(f"{self.name}(): {name} takes a list, not {type(value).__name__}")
            prefix = f"{name[:_MEMBER_PREFIX_CHARS]}_"
            while any(other.startswith(prefix) for other in taken):
                prefix += "_"
            taken.add(prefix)
            members[name] = [f"{prefix}{index}" for index in range(len(value))]
            inputs.update(zip(members[name], value, strict=True))
        if "template" in self.prompt:
            return {"template": self._join(str(self.prompt["template"]), members)}, inputs
        messages = cast("list[dict[str, str]]", self.prompt["messages"])
        joined = [{**each, "content": self._join(each["content"], members)} for each in messages]
        return {"messages": joined}, inputs

    def _join(self, template: str, members: Mapping[str, Sequence[str]]) -> str:
        pieces: list[Piece] = []
        for piece in parse_template(template):
            if not isinstance(piece, PlaceholderPiece) or piece.name not in members:
                pieces.append(piece)
                continue
            for index, member in enumerate(members[piece.name]):
                if index:
                    separator = self.joins[piece.name].separator
                    pieces.append(TextPiece(text=separator, position=piece.position))
                pieces.append(PlaceholderPiece(name=member, kind="input", position=piece.position))
        return write_template(pieces)

    def call_spec(
        self,
        *,
        name: str,
        model: str | None,
        prompt: Mapping[str, object],
        inputs: Mapping[str, Mapping[str, str]],
        output_names: Mapping[str, str],
    ) -> CallSpec:
        """One call as the wire has it; `inputs` are its `value` and `variable` parameters.

        Raises:
            pydantic.ValidationError: an input's text that cannot travel.
        """
        parameters: dict[str, object] = dict(inputs)
        for output, plan in self.outputs.items():
            parameters[output] = {"output": {"variable": output_names[output], **plan.spec}}
        chosen = self.model or model
        fields = {"name": name, **prompt, "parameters": parameters}
        return CallSpec.model_validate(fields if chosen is None else {**fields, "model": chosen})


def compile_function(function: Callable[..., object], defaults: Defaults) -> FunctionPlan:
    """Check a function's declaration.

    Raises:
        SemanticFunctionError: what is wrong, and where in the docstring or messages.
    """
    name = str(defaults.name or getattr(function, "__name__", ""))
    if not NAME_PATTERN.match(name):
        raise SemanticFunctionError(
            f"{name!r} cannot name calls: give name=… with letters, digits and underscores (at most 64)"
        )
    inputs, joins, outputs = _parameters(name, function, defaults)
    sources = _sources(name, function, defaults)
    _check_template(name, sources, inputs, outputs)
    if defaults.messages is None:
        prompt: Mapping[str, object] = {"template": sources[0].text}
    else:
        prompt = {"messages": [{"role": m.role, "content": m.content} for m in defaults.messages]}
    plan = FunctionPlan(
        name=name,
        model=defaults.model,
        prompt=prompt,
        signature=inspect.Signature(list(inputs.values())),
        joins=joins,
        outputs=outputs,
        result=_result_type(name, outputs, defaults.result),
    )
    _check_spec(plan)
    return plan


def _parameters(
    name: str, function: Callable[..., object], defaults: Defaults
) -> tuple[dict[str, inspect.Parameter], dict[str, Join], dict[str, OutputPlan]]:
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise SemanticFunctionError(
            f"{name}: an annotation cannot be understood ({error}); what it names must stand at module level"
        ) from None
    inputs: dict[str, inspect.Parameter] = {}
    joins: dict[str, Join] = {}
    outputs: dict[str, OutputPlan] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise SemanticFunctionError(
                f"{name}: *{parameter.name} cannot stand for placeholders; name each one"
            )
        if not NAME_PATTERN.match(parameter.name):
            raise SemanticFunctionError(f"{name}: parameter {parameter.name!r} is not an ASCII identifier")
        annotation, extras = _unpack(hints.get(parameter.name))
        if annotation is Input:
            inputs[parameter.name] = _input(name, parameter, extras)
            if extras:
                joins[parameter.name] = cast("Join", extras[0])
        elif annotation is Output or get_origin(annotation) is Output:
            if parameter.default is not inspect.Parameter.empty:
                raise SemanticFunctionError(
                    f"{name}: output {parameter.name!r} has a default; the model writes it"
                )
            declared = (get_args(annotation) or (str,))[0]
            outputs[parameter.name] = _output(name, parameter.name, declared, extras, defaults)
        else:
            raise SemanticFunctionError(
                f"{name}: parameter {parameter.name!r} must be annotated `Input` or `Output`"
            )
    if not outputs:
        raise SemanticFunctionError(f"{name}: no parameter is an `Output`, so the model has nothing to write")
    return inputs, joins, outputs


def _unpack(annotation: object) -> tuple[object, tuple[object, ...]]:
    if get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        return inner, tuple(extras)
    return annotation, ()


def _input(name: str, parameter: inspect.Parameter, extras: tuple[object, ...]) -> inspect.Parameter:
    if extras and not (len(extras) == 1 and isinstance(extras[0], Join)):
        raise SemanticFunctionError(
            f"{name}: input {parameter.name!r} is annotated with {extras[0]!r}; inputs take only one Join"
        )
    default = parameter.default
    if extras and default is not inspect.Parameter.empty:
        raise SemanticFunctionError(f"{name}: input {parameter.name!r} takes a list and can have no default")
    if default is not inspect.Parameter.empty and not isinstance(default, str):
        mutable = "a mutable default" if isinstance(default, (list, dict, set)) else "a default"
        raise SemanticFunctionError(
            f"{name}: input {parameter.name!r} has {mutable} of type {type(default).__name__}; "
            "a default must be a str"
        )
    return parameter.replace(annotation=Input)


def _output(
    name: str, output: str, declared: object, extras: tuple[object, ...], defaults: Defaults
) -> OutputPlan:
    samplings = [extra for extra in extras if isinstance(extra, Sampling)]
    grammars = [extra for extra in extras if isinstance(extra, (Schema, Pattern))]
    transforms = [extra for extra in extras if isinstance(extra, tuple(_TRANSFORM_TYPES))]
    if len(samplings) > 1 or len(grammars) > 1:
        raise SemanticFunctionError(f"{name}: output {output!r} has two of a kind: {extras!r}")
    unknown = [extra for extra in extras if extra not in (*samplings, *grammars, *transforms)]
    if unknown:
        raise SemanticFunctionError(
            f"{name}: output {output!r} is annotated with {unknown[0]!r}, which is none of "
            "Sampling, Schema, Pattern or a transform"
        )
    adapter, schema = _adapter(name, output, declared)
    is_text = schema.get("type") == "string"
    chain = cast("list[Transform]", transforms) or list(defaults.transforms)
    if not chain and adapter is not None:
        chain = [StripTransform() if is_text else JsonTransform()]
    sampling = samplings[0] if samplings else defaults.sampling
    spec: dict[str, object] = {
        "sampling": {name: asdict(sampling)[name] for name in SamplingSpec.model_fields},
        "transforms": [_transform_spec(transform) for transform in chain],
    }
    for grammar in grammars:
        if isinstance(grammar, Pattern):
            spec["regex"] = grammar.regex
        else:
            spec["schema"] = dict(schema if grammar.schema is None else grammar.schema)
    return OutputPlan(spec=spec, parse=None if adapter is None else _parser(adapter, output, is_text=is_text))


def _adapter(name: str, output: str, declared: Any) -> tuple[TypeAdapter[Any] | None, Mapping[str, object]]:
    if declared is str:
        return None, {"type": "string"}
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(declared)
        return adapter, adapter.json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise SemanticFunctionError(
            f"{name}: output {output!r} has a type that pydantic cannot validate: {error}"
        ) from None


def _parser(adapter: TypeAdapter[Any], output: str, *, is_text: bool) -> Parse:
    def parse(text: str) -> object:
        try:
            parsed: object = adapter.validate_python(text) if is_text else adapter.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            place = "/".join(str(part) for part in first["loc"])
            raise CallError(
                f"output {output!r} does not have its declared type: {first['msg']}"
                + (f" (at /{place})" if place else ""),
                code="bad_value",
                param=output,
                data={"text": text[:200], "num_errors": error.error_count()},
            ) from None
        return parsed

    return parse


def _transform_spec(transform: Transform) -> dict[str, object]:
    return {"type": _TRANSFORM_TYPES[type(transform)], **asdict(transform)}


def _sources(name: str, function: Callable[..., object], defaults: Defaults) -> tuple[SourceText, ...]:
    if defaults.messages is not None:
        if not defaults.messages or not all(isinstance(m, Message) for m in defaults.messages):
            raise SemanticFunctionError(
                f"{name}: messages takes parrot.system(…), parrot.user(…) and parrot.assistant(…), "
                "at least one"
            )
        return tuple(
            SourceText(function=name, place=f"messages[{index}] ({message.role})", text=message.content)
            for index, message in enumerate(defaults.messages)
        )
    docstring = function.__doc__
    if docstring is None or not docstring.strip():
        raise SemanticFunctionError(
            f"{name}: no docstring, and the docstring is the template (an f-string is no docstring: "
            "write a plain string with {{name}} in it)"
        )
    return (docstring_source(name, docstring),)


def _check_template(
    name: str,
    sources: Sequence[SourceText],
    inputs: Mapping[str, object],
    outputs: Mapping[str, object],
) -> None:
    names = (*inputs, *outputs)
    seen: set[str] = set()
    for source, piece in _placeholders(sources, names):
        label = f"{{{{{piece.name}}}}}"
        if piece.name not in names:
            close = difflib.get_close_matches(piece.name, names, n=1)
            hint = f"; did you mean {{{{{close[0]}}}}}?" if close else ""
            raise source.error(f"{label} is not a parameter{hint}", piece.position)
        kind = "output" if piece.name in outputs else "input"
        if piece.kind not in (None, kind):
            raise source.error(f"{{{{{piece.kind}:{piece.name}}}}} is declared as an {kind}", piece.position)
        if kind == "output" and piece.name in seen:
            raise source.error(f"output {label} stands here a second time", piece.position)
        if kind == "output" and not seen and piece.position == 0 and source.place == "docstring":
            raise source.error(f"output {label} comes first: the model needs a prompt before it", 0)
        seen.add(piece.name)
    for unused in names:
        if unused not in seen:
            raise SemanticFunctionError(
                f"{name}: parameter {unused!r} is unused: {{{{{unused}}}}} is nowhere in the template"
            )


def _placeholders(
    sources: Sequence[SourceText], names: Sequence[str]
) -> Iterator[tuple[SourceText, PlaceholderPiece]]:
    alternatives = "|".join(re.escape(name) for name in names)
    single_braces = re.compile(
        rf"(?<!\{{)\{{\s*({alternatives})\s*(?:![rsa])?(?:[:.\[][^{{}}\n]*)?\}}(?!\}})"
    )
    for source in sources:
        if found := single_braces.search(source.text):
            raise source.error(
                f"{found.group()} looks like an f-string or str.format field and would stay as it is: "
                f"placeholders have two braces, {{{{{found.group(1)}}}}}",
                found.start(),
            )
        try:
            pieces = parse_template(source.text)
        except TemplateError as error:
            position = error.data.get("position", 0)
            raise source.error(error.message, position if isinstance(position, int) else 0) from None
        for piece in pieces:
            if isinstance(piece, PlaceholderPiece):
                yield source, piece


def _result_type(
    name: str, outputs: Mapping[str, OutputPlan], result: type[Any] | None
) -> Callable[..., Any] | None:
    if result is not None:
        fields = getattr(result, "_fields", None)
        if fields != tuple(outputs):
            raise SemanticFunctionError(
                f"{name}: result={result.__name__} must be a NamedTuple with the fields {', '.join(outputs)}"
            )
        return result
    if len(outputs) == 1:
        return None
    try:
        return namedtuple(f"{name}_outputs", tuple(outputs))
    except ValueError as error:
        raise SemanticFunctionError(f"{name}: several outputs become a named tuple: {error}") from None


def _check_spec(plan: FunctionPlan) -> None:
    """Let the wire schema check sampling, grammar, transforms, roles and the number of parameters."""
    try:
        plan.call_spec(
            name=plan.name,
            model=None,
            prompt=plan.prompt,
            inputs={name: {"value": ""} for name in plan.signature.parameters},
            output_names={name: f"output_{index}" for index, name in enumerate(plan.outputs)},
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SemanticFunctionError(f"{plan.name}: {place}: {first['msg']}") from None
