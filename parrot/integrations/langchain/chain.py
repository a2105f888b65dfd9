"""`lazy`: a chain whose calls become one application graph."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.utils import AddableDict

from parrot.integrations.langchain.rewriting import rewrite
from parrot.integrations.langchain.run import ACTIVE, LazyRun
from parrot.integrations.naming import label
from parrot.sdk.graph import Graph
from parrot.types.objective import Objective

Inputs = TypeVar("Inputs")
Result = TypeVar("Result")


class LazyChain(Runnable[Inputs, Result]):
    """A chain, run so that calls of `ChatParrot` in it are submitted to one session and wait for each other
    in the service. What it returns is as the chain returns it: texts, not stand-ins.

    Each `invoke`, `batch` or `stream` is a run of its own, with a session of its own. A lazy chain inside
    another takes part in the other's run.
    """

    takes_marks = True

    def __init__(
        self, chain: Runnable[Inputs, Result], *, objective: Objective = "latency", keep_graph: bool = False
    ) -> None:
        self.chain = chain
        """The chain as it was given."""
        self.rewritten = _rewritten(chain)
        """The chain with its barriers."""
        self.name = chain.get_name()
        self._objective = objective
        self._keep_graph = keep_graph
        self.last_graphs: list[Graph] = []
        """With `keep_graph`, the application graph of the latest run, one for each service it used."""

    def invoke(self, input: Inputs, config: RunnableConfig | None = None, **kwargs: Any) -> Result:  # noqa: A002
        """Run the chain; returns when its value is there.

        Raises:
            ParrotError: a call failed, or the service cannot be reached.
        """
        if ACTIVE.get() is not None:
            inner: Result = self.rewritten.invoke(input, config, **kwargs)
            return inner
        with self._run(config) as run:
            with _submitting_to(run):
                value = self.rewritten.invoke(input, config, **kwargs)
            result: Result = run.resolve(value, barrier=False)
            self._keep(run)
        return result

    async def ainvoke(
        self,
        input: Inputs,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Result:
        """As `invoke`."""
        if ACTIVE.get() is not None:
            inner: Result = await self.rewritten.ainvoke(input, config, **kwargs)
            return inner
        with self._run(config) as run:
            with _submitting_to(run):
                value = await self.rewritten.ainvoke(input, config, **kwargs)
            result: Result = await run.aresolve(value, barrier=False)
            self._keep(run)
        return result

    def batch(
        self,
        inputs: list[Inputs],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Result]:
        """Run the chain on each input, all in one session."""
        first = config[0] if isinstance(config, list) and config else config
        with self._run(None if isinstance(first, list) else first) as run:
            with _submitting_to(run):
                values = self.rewritten.batch(inputs, config, return_exceptions=return_exceptions, **kwargs)
            if not return_exceptions:
                results: list[Result] = run.resolve(values, barrier=False)
                return results
            return [_or_exception(run, value) for value in values]

    async def abatch(
        self,
        inputs: list[Inputs],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Result]:
        """As `batch`."""
        first = config[0] if isinstance(config, list) and config else config
        with self._run(None if isinstance(first, list) else first) as run:
            with _submitting_to(run):
                values = await self.rewritten.abatch(
                    inputs, config, return_exceptions=return_exceptions, **kwargs
                )
            if not return_exceptions:
                results: list[Result] = await run.aresolve(values, barrier=False)
                return results
            return [await _aor_exception(run, value) for value in values]

    def stream(
        self,
        input: Inputs,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Result]:
        """Run the chain; a text or message comes in pieces as it is generated, a dict key by key."""
        with self._run(config) as run:
            with _submitting_to(run):
                value = self.rewritten.invoke(input, config, **kwargs)
            yield from _pieces(run, value)

    async def astream(
        self,
        input: Inputs,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Result]:
        """As `stream`."""
        with self._run(config) as run:
            with _submitting_to(run):
                value = await self.rewritten.ainvoke(input, config, **kwargs)
            async for piece in _apieces(run, value):
                yield piece

    def _make_run(self, config: RunnableConfig | None) -> LazyRun:
        known = ensure_config(config)
        thread = known.get("configurable", {}).get("thread_id") or known.get("metadata", {}).get("thread_id")
        metadata = {"framework": "langchain"} | ({"thread_id": label(thread)} if thread else {})
        name = known.get("run_name") or self.name
        return LazyRun(name=label(name), metadata=metadata, objective=self._objective)

    @contextmanager
    def _run(self, config: RunnableConfig | None) -> Iterator[LazyRun]:
        run = self._make_run(config)
        try:
            yield run
        finally:
            run.close()

    def _keep(self, run: LazyRun) -> None:
        if self._keep_graph:
            self.last_graphs = run.graphs()


@contextmanager
def _submitting_to(run: LazyRun) -> Iterator[None]:
    """Inside, calls of the model go to the run. Never yield to a caller inside: it would be in it too."""
    token = ACTIVE.set(run)
    try:
        yield
    finally:
        ACTIVE.reset(token)


def lazy(
    chain: Runnable[Inputs, Result], *, objective: Objective = "latency", keep_graph: bool = False
) -> LazyChain[Inputs, Result]:
    """The same chain, with the calls of `ChatParrot` in it as one application graph in the service.

    Args:
        chain: Any runnable; a LangGraph graph without a checkpointer too.
        objective: How its results are waited for: `latency`, or `throughput` when only the completion of all
            of them counts.
        keep_graph: Keep the application graph of each run in `last_graphs`, to look at.
    """
    if isinstance(chain, LazyChain):
        return chain
    return LazyChain(chain, objective=objective, keep_graph=keep_graph)


def _rewritten(chain: Runnable[Any, Any]) -> Runnable[Any, Any]:
    if type(chain).__module__.startswith("langgraph."):
        from parrot.integrations.langchain.graphs import rewrite_graph

        return rewrite_graph(chain)
    return rewrite(chain)


def _or_exception(run: LazyRun, value: Any) -> Any:
    try:
        return run.resolve(value, barrier=False)
    except Exception as error:  # noqa: BLE001 - the caller asked for it as a result
        return error


async def _aor_exception(run: LazyRun, value: Any) -> Any:
    try:
        return await run.aresolve(value, barrier=False)
    except Exception as error:  # noqa: BLE001 - the caller asked for it as a result
        return error


def _pieces(run: LazyRun, value: Any) -> Iterator[Any]:
    if isinstance(value, str):
        yield from run.stream(value)
    elif isinstance(value, AIMessage) and isinstance(value.content, str):
        for piece in run.stream(value.content):
            yield AIMessageChunk(content=piece)
    elif isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        for key, inner in value.items():
            for piece in _pieces(run, inner):
                yield AddableDict({key: piece})
    else:
        yield run.resolve(value, barrier=False)


async def _apieces(run: LazyRun, value: Any) -> AsyncIterator[Any]:
    if isinstance(value, str):
        async for piece in run.astream(value):
            yield piece
    elif isinstance(value, AIMessage) and isinstance(value.content, str):
        async for piece in run.astream(value.content):
            yield AIMessageChunk(content=piece)
    elif isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        for key, inner in value.items():
            async for piece in _apieces(run, inner):
                yield AddableDict({key: piece})
    else:
        yield await run.aresolve(value, barrier=False)


__all__: Sequence[str] = ["LazyChain", "lazy"]
