"""Random chains: the lazy chain gives what the chain gives, and the graph's edges are those of the data."""

import random
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import pytest

pytest.importorskip("langchain_openai", reason="needs the extra langchain: nox -s langchain")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)

from parrot.integrations.langchain import ChatParrot, lazy

Chain: TypeAlias = Runnable[str, str]


class Trace:
    """What depends on what, found by running the chain on texts that name the calls they come from.

    A chain over texts is a pure function of them, so the same tree with a recording model in place of the
    real one tells which answers a prompt is made of.
    """

    def __init__(self) -> None:
        self.calls: list[frozenset[int]] = []

    def answer(self, prompt: str) -> str:
        origins = frozenset(number for number in range(len(self.calls)) if f"<{number}>" in prompt)
        self.calls.append(origins)
        return f"<{len(self.calls) - 1}>"


Build: TypeAlias = Callable[[Runnable[Any, str]], Chain]
"""Builds a tree around a model that gives texts."""


def step(instruction: str, *, chat: bool) -> Build:
    template: Any = (
        ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", instruction + " {text}")])
        if chat
        else PromptTemplate.from_template(instruction + ": {text}\n")
    )
    return lambda model: RunnableLambda(lambda text: {"text": text}) | template | model


def sequence(first: Build, second: Build) -> Build:
    return lambda model: first(model) | second(model)


def parallel(left: Build, right: Build) -> Build:
    return lambda model: (
        RunnableParallel(left=left(model), right=right(model))
        | RunnableLambda(lambda both: f"{both['left']} and {both['right']}")
    )


def mapped(inner: Build, number: int) -> Build:
    def build(model: Runnable[Any, str]) -> Chain:
        spread = RunnableLambda(lambda text: [text + " " + str(index) for index in range(number)])
        return spread | inner(model).map() | RunnableLambda(lambda texts: "\n".join(["all", *texts]))

    return build


def assigned(inner: Build, after: Build) -> Build:
    return lambda model: (
        RunnableLambda(lambda text: {"text": text})
        | RunnablePassthrough.assign(more=RunnableLambda(lambda found: found["text"]) | inner(model))
        | RunnableLambda(lambda found: found["text"] + "; " + found["more"])
        | after(model)
    )


def fallback(inner: Build) -> Build:
    def fail(text: str) -> str:
        raise ValueError(text[:10])

    return lambda model: RunnableLambda(fail).with_fallbacks([inner(model)])


def branch(left: Build, right: Build, letter: str) -> Build:
    return lambda model: RunnableBranch((lambda text: letter in text, left(model)), right(model))


LEAVES = st.builds(step, st.sampled_from(["Say", "Tell", "Sum up"]), chat=st.booleans())
DATA_FLOW = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(sequence, inner, inner),
        st.builds(parallel, inner, inner),
        st.builds(mapped, inner, st.integers(1, 3)),
        st.builds(assigned, inner, inner),
    ),
    max_leaves=5,
)
"""Trees without barriers."""
ANY = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(sequence, inner, inner),
        st.builds(parallel, inner, inner),
        st.builds(mapped, inner, st.integers(1, 2)),
        st.builds(fallback, inner),
        st.builds(branch, inner, inner, st.sampled_from("aeq")),
        st.builds(
            lambda first, second: sequence(
                sequence(first, lambda _: RunnableLambda(lambda t: t.upper()[:40])), second
            ),
            inner,
            inner,
        ),
    ),
    max_leaves=4,
)
CHECKS = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def model(url: str) -> ChatParrot:
    return ChatParrot(model="scripted", base_url=f"{url}/v1", max_tokens=5)


@CHECKS
@given(build=ANY, seed=st.integers(0, 3))
def test_a_lazy_chain_gives_what_the_chain_gives(model: ChatParrot, build: Build, seed: int) -> None:
    chain = build(model | StrOutputParser())
    text = random.Random(seed).choice(["tea", "quick brown fox", "{{x}} {y}", "a\nb"])
    assert lazy(chain).invoke(text) == chain.invoke(text)


@CHECKS
@given(build=DATA_FLOW)
def test_edges_of_the_graph_are_edges_of_the_data(model: ChatParrot, build: Build) -> None:
    trace = Trace()
    recording: Runnable[Any, str] = RunnableLambda(lambda prompt: trace.answer(prompt.to_string()))
    build(recording).invoke("tea", {"max_concurrency": 1})
    chain = lazy(build(model | StrOutputParser()), keep_graph=True)
    chain.invoke("tea", {"max_concurrency": 1})
    graph = chain.last_graphs[0]
    number = {node.name: index for index, node in enumerate(graph.nodes)}
    calls: list[set[int]] = [set() for _ in graph.nodes]
    for edge in graph.edges:
        calls[number[edge.target]].add(number[edge.source])
    assert forms(calls) == forms(trace.calls)


def forms(calls: Sequence[Collection[int]]) -> list[str]:
    """What each call depends on, whatever the calls are numbered by: equal for equal graphs.

    A call's form is its producers' forms; beside it stand its consumers'.
    """
    below = [""] * len(calls)
    for _ in range(len(calls)):
        below = ["(" + "".join(sorted(below[source] for source in origins)) + ")" for origins in calls]
    above = [
        "".join(sorted(below[target] for target, origins in enumerate(calls) if source in origins))
        for source in range(len(calls))
    ]
    return sorted(f"{down}/{up}" for down, up in zip(below, above, strict=True))
