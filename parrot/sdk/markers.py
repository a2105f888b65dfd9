"""What the parameters of a semantic function are annotated with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from parrot.sdk.variable import SemanticVariable

    T = TypeVar("T", default=str)

    Input: TypeAlias = str | SemanticVariable[Any]
else:
    from typing import TypeVar

    T = TypeVar("T")

    class Input:
        """Marks a parameter whose placeholder takes a text, or the variable that another call produces."""


class Output(Generic[T]):
    """Marks a parameter whose placeholder the model writes; it is not passed by the caller but returned.

    `Output` alone gives text. `Output[list[str]]`, `Output[MyModel]` (a pydantic model) or any other type
    that pydantic can validate gives a value of that type: the text is reduced to its JSON by a transform in
    the service, and `get` parses it, raising `CallError` (`bad_value`) when it does not fit.

    `Annotated[Output, …]` says more: `Sampling(…)` in place of the function's sampling, transforms in the
    order in which they are applied, `Schema()` or `Pattern(…)` to constrain what the model may write.
    """


@dataclass(frozen=True, slots=True)
class Join:
    """`Annotated[Input, Join(…)]` marks an input that takes a list of texts and variables, in order.

    The service joins them in the prompt, so that a call can consume any number of others without the texts
    coming back to the program in between.
    """

    separator: str = "\n"
    """Stands between two of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """Constrains an output to a JSON schema, on engines with structured output (others refuse the call)."""

    schema: Mapping[str, object] | None = None
    """The JSON schema; None takes the one of the output's own type."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Constrains an output to a regular expression, on engines with structured output."""

    regex: str
