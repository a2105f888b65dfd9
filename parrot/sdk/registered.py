"""Functions that the service keeps: from a function of this program to one, and back."""

import inspect
from collections import namedtuple
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from parrot.errors import UsageError
from parrot.sdk.function import SemanticFunction
from parrot.sdk.markers import Input
from parrot.sdk.plan import FunctionPlan, OutputPlan
from parrot.wire.functions import FunctionSpec, FunctionView


def function_spec(
    function: SemanticFunction[Any], *, description: str | None = None, warm: bool = False
) -> FunctionSpec:
    """What is registered of a function of this program.

    Raises:
        UsageError: it has an input that takes a list, and so no single template.
    """
    plan = function.plan
    if plan.joins:
        raise UsageError(
            f"{plan.name} cannot be registered: {next(iter(plan.joins))} takes a list, so its template "
            "differs from call to call"
        )
    docstring = inspect.getdoc(function) if "messages" in plan.prompt else None
    defaults = {
        name: {"default": parameter.default}
        for name, parameter in plan.signature.parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    fields = {
        **plan.prompt,
        "description": description or docstring,
        "model": plan.model,
        "inputs": defaults,
        "outputs": {name: output.spec for name, output in plan.outputs.items()},
        "warm": warm,
    }
    try:
        return FunctionSpec.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise UsageError(f"{plan.name} cannot be registered: {first['msg']}") from None


def registered_function(view: FunctionView) -> SemanticFunction[Any]:
    """A version of a registered function, to be called like one of this program; its outputs are texts."""
    inputs = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if known.default is None else known.default,
            annotation=Input,
        )
        for name, known in view.inputs.items()
    ]
    inputs.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)
    plan = FunctionPlan(
        name=view.name,
        model=None,
        prompt={"function": f"{view.name}@{view.version}"},
        signature=inspect.Signature(inputs),
        joins={},
        outputs={name: OutputPlan(spec={}, parse=None) for name in view.outputs},
        result=_result(view) if len(view.outputs) > 1 else None,
    )

    def declared() -> None:
        """Stands for the function's declaration, which is with the service."""

    declared.__name__ = declared.__qualname__ = view.name
    declared.__doc__ = view.description or view.template
    return SemanticFunction(declared, plan)


def _result(view: FunctionView) -> Callable[..., Any]:
    return namedtuple(f"{view.name}_outputs", tuple(view.outputs), rename=True)
