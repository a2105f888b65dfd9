"""From a chain to the same chain with barriers: whatever needs to read a text waits for it first.

| part | gets |
|---|---|
| sequence, parallel, assign, pick, map, binding | its parts, rewritten |
| `ChatParrot` | marks; it submits |
| prompt template of f-strings | marks, and each value as a piece of its own |
| `StrOutputParser` | marks |
| function that only passes texts on | marks, reading which waits |
| branch | its conditions get texts, its branches marks |
| fallbacks, retry | their inner runnables' answers are waited for, for an error decides what comes next |
| everything else: other parsers, functions that read, retrievers, tools, other models | texts |
"""

import string
from collections.abc import Callable
from typing import Any, TypeAlias

from langchain_core.globals import get_llm_cache
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.prompts.chat import BaseMessagePromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase, RunnableEachBase
from langchain_core.runnables.passthrough import RunnableAssign, RunnablePick
from langchain_core.runnables.retry import RunnableRetry

from parrot.integrations.langchain.joining import only_passes
from parrot.integrations.langchain.model import ChatParrot
from parrot.integrations.langchain.run import ACTIVE

Part: TypeAlias = Runnable[Any, Any]


class Barrier(Runnable[Any, Any]):
    """Runs `inner` on texts, and calls of the model inside it at once."""

    def __init__(self, inner: Part) -> None:
        self.inner = inner
        self.name = inner.get_name()

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Wait for the texts of `input`, then run."""
        run = ACTIVE.get()
        if run is not None:
            input = run.resolve(input)  # noqa: A001
        token = ACTIVE.set(None)
        try:
            return self.inner.invoke(input, config, **kwargs)
        finally:
            ACTIVE.reset(token)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """As `invoke`."""
        run = ACTIVE.get()
        if run is not None:
            input = await run.aresolve(input)  # noqa: A001
        token = ACTIVE.set(None)
        try:
            return await self.inner.ainvoke(input, config, **kwargs)
        finally:
            ACTIVE.reset(token)


class Resolved(Runnable[Any, Any]):
    """Runs `inner` lazily and waits for what it gives: its errors are its own."""

    def __init__(self, inner: Part) -> None:
        self.inner = inner
        self.name = inner.get_name()

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Run, then wait."""
        value = self.inner.invoke(input, config, **kwargs)
        run = ACTIVE.get()
        return value if run is None else run.resolve(value)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """As `invoke`."""
        value = await self.inner.ainvoke(input, config, **kwargs)
        run = ACTIVE.get()
        return value if run is None else await run.aresolve(value)


class Passing(Runnable[Any, Any]):
    """Runs a function that passes texts on, on texts that may not be there yet."""

    def __init__(self, inner: Part) -> None:
        self.inner = inner
        self.name = inner.get_name()

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Run it."""
        run = ACTIVE.get()
        return self.inner.invoke(input if run is None else run.pending(input), config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Run it."""
        run = ACTIVE.get()
        return await self.inner.ainvoke(input if run is None else run.pending(input), config, **kwargs)


class Templated(Runnable[Any, Any]):
    """Runs a prompt template with each value as a piece of its own, so that the service sees the template."""

    def __init__(self, inner: Part) -> None:
        self.inner = inner
        self.name = inner.get_name()

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Run it."""
        run = ACTIVE.get()
        return self.inner.invoke(input if run is None else run.given(input), config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Run it."""
        run = ACTIVE.get()
        return await self.inner.ainvoke(input if run is None else run.given(input), config, **kwargs)


def rewrite(part: Part) -> Part:
    """The same runnable for a lazy run; outside one it does what it did before."""
    rewritten = _REWRITES.get(type(part))
    if rewritten is not None:
        return rewritten(part)
    if isinstance(part, ChatParrot):
        return part if is_lazy(part) else Barrier(part)
    if isinstance(part, BasePromptTemplate):
        return Templated(part) if _is_plain(part) else Barrier(part)
    if isinstance(part, (RunnableBindingBase, RunnableEachBase)):
        return part.model_copy(update={"bound": rewrite(part.bound)})
    known = isinstance(part, (Barrier, Resolved, Passing, Templated)) or is_lazy(part)
    return part if known else Barrier(part)


def _sequence(part: Any) -> Part:
    return RunnableSequence(*map(rewrite, part.steps), name=part.name)


def _parallel(part: Any) -> RunnableParallel[Any]:
    steps = {key: rewrite(step) for key, step in part.steps__.items()}
    made: RunnableParallel[Any] = part.model_copy(update={"steps__": steps})
    return made


def _assign(part: Any) -> Part:
    made: Part = part.model_copy(update={"mapper": _parallel(part.mapper)})
    return made


def _branch(part: Any) -> Part:
    branches = [(Barrier(condition), rewrite(branch)) for condition, branch in part.branches]
    made: Part = part.model_copy(update={"branches": branches, "default": rewrite(part.default)})
    return made


def _fallbacks(part: Any) -> Part:
    inner, others = Resolved(rewrite(part.runnable)), [Resolved(rewrite(other)) for other in part.fallbacks]
    made: Part = part.model_copy(update={"runnable": inner, "fallbacks": others})
    return made


def _retry(part: Any) -> Part:
    made: Part = part.model_copy(update={"bound": Resolved(rewrite(part.bound))})
    return made


def _function(part: Any) -> Part:
    functions = [f for f in (getattr(part, "func", None), getattr(part, "afunc", None)) if f is not None]
    passes = bool(functions) and all(only_passes(function, is_lazy) for function in functions)
    return Passing(part) if passes else Barrier(part)


def _passthrough(part: Any) -> Part:
    made: Part = part if part.func is None and part.afunc is None else Barrier(part)
    return made


def _same(part: Any) -> Part:
    made: Part = part
    return made


_REWRITES: dict[type, Callable[[Any], Part]] = {
    RunnableSequence: _sequence,
    RunnableParallel: _parallel,
    RunnableAssign: _assign,
    RunnablePick: _same,
    RunnableBranch: _branch,
    RunnableWithFallbacks: _fallbacks,
    RunnableRetry: _retry,
    RunnableLambda: _function,
    RunnablePassthrough: _passthrough,
    StrOutputParser: _same,
}
"""By exact type: what a subclass changes is not known."""


def is_lazy(value: object) -> bool:
    """Whether it can be called with marks: a lazy chain, or a model that submits. A cache would keep marks
    for later runs.
    """
    if not isinstance(value, ChatParrot):
        return getattr(value, "takes_marks", False) is True
    return value.cache is False or (value.cache is None and get_llm_cache() is None)


def _is_plain(template: object) -> bool:
    """Whether a prompt template puts its values in as they are."""
    match template:
        case ChatPromptTemplate():
            return all(map(_is_plain, template.messages))
        case PromptTemplate():
            return template.template_format == "f-string" and _puts_in(template.template)
        case MessagesPlaceholder() | BaseMessage():
            return True
        case BaseMessagePromptTemplate():
            return _is_plain(getattr(template, "prompt", None))
        case _:
            return False


def _puts_in(template: str) -> bool:
    fields = (field for field in string.Formatter().parse(template) if field[1] is not None)
    return all(
        name is not None and name.isidentifier() and not spec and not how for _, name, spec, how in fields
    )
