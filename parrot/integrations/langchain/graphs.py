"""LangGraph: the same graph with barriers, for a lazy run.

A node's function is treated like any function in a chain: one that only passes texts on, calling `ChatParrot`
on the way, gets marks; any other gets texts. Conditions on edges get texts. So marks travel through the
graph's state from node to node, and the calls of all its nodes become one application graph. Where the state
is no dict, or a reducer is not known to pass texts on, each node's result is waited for instead.
"""

import copy
import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, is_typeddict

from langchain_core.runnables import Runnable
from langgraph.channels.binop import BinaryOperatorAggregate
from langgraph.graph.message import add_messages
from langgraph.graph.state import CompiledStateGraph, StateGraph

from parrot.errors import UsageError
from parrot.integrations.langchain.joining import only_passes
from parrot.integrations.langchain.rewriting import Barrier, Resolved, is_lazy, rewrite
from parrot.integrations.langchain.run import ACTIVE

_REDUCERS = (operator.add, operator.concat, add_messages)
"""Reducers that do not look into texts."""


def rewrite_graph(graph: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """A compiled graph with barriers.

    Raises:
        UsageError: it is none that was compiled from a `StateGraph`, or it keeps checkpoints, which would
            outlive what marks mean.
    """
    if not isinstance(graph, CompiledStateGraph):
        raise UsageError(f"lazy takes compiled LangGraph graphs, not {type(graph).__name__}")
    if graph.checkpointer:
        raise UsageError(
            "a graph with a checkpointer stores its state between steps, so its texts are needed there: "
            "run it without lazy, or compile it without a checkpointer"
        )
    builder = copy.copy(graph.builder)
    carries = _carries_marks(builder)
    builder.nodes = {
        name: dataclasses.replace(spec, runnable=_node(spec.runnable, carries=carries))
        for name, spec in builder.nodes.items()
    }
    branches = copy.copy(builder.branches)
    for start, named in builder.branches.items():
        branches[start] = {name: spec._replace(path=Barrier(spec.path)) for name, spec in named.items()}
    builder.branches = branches
    builder.compiled = False
    made: Runnable[Any, Any] = builder.compile(store=graph.store, cache=graph.cache, name=graph.name)
    return made


def _carries_marks(builder: StateGraph[Any]) -> bool:
    """Whether texts may stand in the graph's state that are not there yet."""
    reducers = [c.operator for c in builder.channels.values() if isinstance(c, BinaryOperatorAggregate)]
    return is_typeddict(builder.state_schema) and all(
        reducer in _REDUCERS or only_passes(reducer, is_lazy) for reducer in reducers
    )


def _node(runnable: Any, *, carries: bool) -> Any:
    func, afunc = getattr(runnable, "func", None), getattr(runnable, "afunc", None)
    if func is None and afunc is None:
        return rewrite(runnable) if carries else Resolved(rewrite(runnable))
    made = copy.copy(runnable)
    made.func = None if func is None else _wrapped(func, carries=carries)
    made.afunc = None if afunc is None else _wrapped_async(afunc, carries=carries)
    return made


def _wrapped(function: Callable[..., Any], *, carries: bool) -> Callable[..., Any]:
    passes = carries and only_passes(function, is_lazy)

    @functools.wraps(function)
    def call(state: Any, *args: Any, **kwargs: Any) -> Any:
        run = ACTIVE.get()
        if run is None:
            return function(state, *args, **kwargs)
        if passes:
            return function(run.pending(state), *args, **kwargs)
        token = ACTIVE.set(None)
        try:
            return function(run.resolve(state), *args, **kwargs)
        finally:
            ACTIVE.reset(token)

    return call


def _wrapped_async(function: Callable[..., Any], *, carries: bool) -> Callable[..., Any]:
    passes = carries and only_passes(function, is_lazy)

    @functools.wraps(function)
    async def call(state: Any, *args: Any, **kwargs: Any) -> Any:
        run = ACTIVE.get()
        if run is None:
            return await function(state, *args, **kwargs)
        if passes:
            return await function(run.pending(state), *args, **kwargs)
        texts = await run.aresolve(state)
        token = ACTIVE.set(None)
        try:
            return await function(texts, *args, **kwargs)
        finally:
            ACTIVE.reset(token)

    return call
