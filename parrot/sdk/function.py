"""`@semantic_function`: a prompt template, written as a Python function."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypedDict, TypeVar, Unpack, overload

from parrot.errors import SemanticFunctionError
from parrot.sdk.current import Caller, current_session
from parrot.sdk.messages import Message
from parrot.sdk.plan import Defaults, FunctionPlan, compile_function
from parrot.sdk.variable import SemanticVariable
from parrot.types.program import Transform
from parrot.types.sampling import Sampling

if TYPE_CHECKING:
    from parrot.sdk.blocking import SyncVariable

    Text: TypeAlias = str | SemanticVariable[Any] | SyncVariable[Any]
    InputValue: TypeAlias = Text | Sequence[Text]

R = TypeVar("R")


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling`, as keyword arguments of `semantic_function`."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    stop: str | Sequence[str]
    seed: int | None
    ignore_eos: bool
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Sequence[tuple[int, float]]
    expected_tokens: int | None


class SemanticFunction(Generic[R]):
    """A prompt template with input and output placeholders; calling it returns variables at once.

    A call takes the inputs, by position or name; each is a `str` or a variable, or a list of them where the
    input is annotated with `Join`; anything else is a `TypeError`. It returns one `SemanticVariable`, or a
    named tuple of them when the function has several outputs.
    """

    def __init__(self, function: Callable[..., object], plan: FunctionPlan) -> None:
        functools.update_wrapper(self, function)
        self.plan = plan

    def __call__(self, *args: "InputValue", **kwargs: "InputValue") -> R:
        """Call it in the current session.

        Raises:
            UsageError: outside any session, or in one that is closed.
            TypeError: wrong arguments.
        """
        result: R = current_session(self.plan.name).call(self, *args, **kwargs)
        return result

    def using(self, session: Caller) -> Callable[..., R]:
        """The same function, bound to a session instead of the current one."""
        return functools.partial(session.call, self)

    def __repr__(self) -> str:
        inputs, outputs = ", ".join(self.plan.signature.parameters), ", ".join(self.plan.outputs)
        return f"<semantic function {self.plan.name}({inputs}) -> {outputs}>"


@overload
def semantic_function(function: Callable[..., object], /) -> SemanticFunction[SemanticVariable[Any]]: ...
@overload
def semantic_function(
    *,
    result: type[R],
    name: str | None = None,
    model: str | None = None,
    messages: Iterable[Message] | None = None,
    transforms: Iterable[Transform] = (),
    **sampling: Unpack[SamplingOptions],
) -> Callable[[Callable[..., object]], SemanticFunction[R]]: ...
@overload
def semantic_function(
    *,
    name: str | None = None,
    model: str | None = None,
    messages: Iterable[Message] | None = None,
    transforms: Iterable[Transform] = (),
    **sampling: Unpack[SamplingOptions],
) -> Callable[[Callable[..., object]], SemanticFunction[SemanticVariable[Any]]]: ...
def semantic_function(
    function: Callable[..., object] | None = None,
    /,
    *,
    result: type[Any] | None = None,
    name: str | None = None,
    model: str | None = None,
    messages: Iterable[Message] | None = None,
    transforms: Iterable[Transform] = (),
    **sampling: Unpack[SamplingOptions],
) -> Any:
    """Declare a semantic function; bare or with arguments.

    The docstring is the template, dedented and stripped at both ends, with `{{name}}` for each parameter;
    parameters are annotated `Input` or `Output`. The body never runs.

    Args:
        function: The function, when the decorator is used bare.
        result: A `NamedTuple` class whose fields are the outputs, in place of one made on the spot; with it,
            type checkers know what a call returns.
        name: What calls are named after, instead of the function's own name.
        model: The model to use, when the service has several; it goes before the session's.
        messages: Chat messages whose contents are the template; the docstring is then only documentation.
        transforms: Applied to each output that has none of its own.
        **sampling: The fields of `Sampling`, for each output that has no `Annotated[Output, Sampling(…)]` of
            its own.

    Raises:
        SemanticFunctionError: the declaration is wrong; says where.
    """

    def decorate(function: Callable[..., object]) -> SemanticFunction[Any]:
        if not callable(function):
            raise SemanticFunctionError("semantic_function decorates a function; its options go by keyword")
        defaults = Defaults(
            name=name,
            model=model,
            messages=None if messages is None else tuple(messages),
            sampling=_sampling(sampling),
            transforms=tuple(transforms),
            result=result,
        )
        return SemanticFunction(function, compile_function(function, defaults))

    return decorate if function is None else decorate(function)


def _sampling(options: SamplingOptions) -> Sampling:
    fields: dict[str, Any] = dict(options)
    stop = fields.get("stop", ())
    fields["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    try:
        return Sampling(**fields)
    except TypeError:
        unknown = ", ".join(sorted(set(fields) - set(Sampling.__dataclass_fields__)))
        raise SemanticFunctionError(f"semantic_function has no option {unknown}") from None
