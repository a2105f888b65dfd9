"""LangGraph graphs, lazily: texts travel through the state before they are there."""

import operator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import pytest

pytest.importorskip("langchain_openai", reason="needs the extra langchain: nox -s langchain")
pytest.importorskip("langgraph", reason="needs langgraph: nox -s langchain")

from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from parrot.errors import UsageError
from parrot.integrations.langchain import ChatParrot, lazy


@pytest.fixture(scope="module")
def model(url: str) -> ChatParrot:
    return ChatParrot(model="scripted", base_url=f"{url}/v1", max_tokens=6)


class State(TypedDict):
    task: str
    notes: Annotated[list[str], operator.add]
    verdict: str


def build(model: ChatParrot, **compile_options: Any) -> Any:
    """Two notes side by side, a verdict on both, and a second verdict if the first is long."""

    def first(state: State) -> dict[str, Any]:
        return {"notes": [model.invoke("First: " + state["task"]).content]}

    def second(state: State) -> dict[str, Any]:
        return {"notes": [model.invoke([("human", f"Second: {state['task']}")]).content]}

    async def verdict(state: State) -> dict[str, Any]:
        return {"verdict": (await model.ainvoke("Judge:\n" + "\n".join(state["notes"]))).content}

    def verdict_now(state: State) -> dict[str, Any]:
        return {"verdict": model.invoke("Judge:\n" + "\n".join(state["notes"])).content}

    def again(state: State) -> dict[str, Any]:
        return {"verdict": model.invoke(f"Again: {state['verdict']}").content}

    def is_long(state: State) -> Literal["again", "__end__"]:
        return "again" if len(state["verdict"]) > 3 else END

    graph = StateGraph(State)
    graph.add_node("first", first)
    graph.add_node("second", second)
    graph.add_node("verdict", verdict if compile_options.pop("asynchronous", False) else verdict_now)
    graph.add_node("again", again)
    graph.add_edge(START, "first")
    graph.add_edge(START, "second")
    graph.add_edge(["first", "second"], "verdict")
    graph.add_conditional_edges("verdict", is_long)
    graph.add_edge("again", END)
    return graph.compile(**compile_options)


TASK = {"task": "a snake game"}


def test_a_graph_gives_the_same_lazily_as_one_application_graph(model: ChatParrot) -> None:
    graph = build(model)
    made = lazy(graph, keep_graph=True)
    assert made.invoke(TASK) == graph.invoke(TASK)
    (application,) = made.last_graphs
    edges = {(edge.source.split("_")[0], edge.target.split("_")[0]) for edge in application.edges}
    assert edges == {("first", "verdict"), ("second", "verdict"), ("verdict", "again")}


def test_calls_are_called_after_the_node_and_the_step(model: ChatParrot) -> None:
    made = lazy(build(model), keep_graph=True)
    made.invoke(TASK)
    names = sorted(node.name.rsplit("_", 1)[0] for node in made.last_graphs[0].nodes)
    assert names == ["again_3", "first_1", "second_1", "verdict_2"]


@pytest.mark.asyncio(loop_scope="session")  # LangChain keeps connections, which belong to a loop
async def test_asynchronous_nodes_are_the_same(model: ChatParrot) -> None:
    graph = build(model, asynchronous=True)
    made = lazy(graph, keep_graph=True)
    assert await made.ainvoke(TASK) == await graph.ainvoke(TASK)
    assert len(made.last_graphs[0].edges) == 3


def test_a_node_that_reads_gets_texts(model: ChatParrot) -> None:
    def count(state: State) -> dict[str, Any]:
        return {"verdict": str(len(model.invoke(state["task"].upper()).content))}

    graph = StateGraph(State)
    graph.add_node("count", count)
    graph.add_edge(START, "count")
    compiled = graph.compile()
    assert lazy(compiled).invoke(TASK) == compiled.invoke(TASK)


def test_messages_travel_through_the_state(model: ChatParrot) -> None:
    class Chat(TypedDict):
        messages: Annotated[list[BaseMessage], add_messages]

    def answer(state: Chat) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(Chat)
    graph.add_node("one", answer)
    graph.add_node("two", answer)
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    compiled = graph.compile()
    given = {"messages": [HumanMessage("Hello")]}
    made = lazy(compiled, keep_graph=True)
    texts = [message.content for message in made.invoke(given)["messages"]]
    assert texts == [message.content for message in compiled.invoke(given)["messages"]]
    assert len(made.last_graphs[0].edges) == 1


def test_a_state_that_is_no_dict_has_texts(model: ChatParrot) -> None:
    @dataclass
    class Plain:
        task: str
        result: str = ""

    def work(state: Plain) -> dict[str, str]:
        return {"result": str(model.invoke(state.task).content)}

    graph = StateGraph(Plain)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    compiled = graph.compile()
    assert lazy(compiled).invoke(Plain("a snake game")) == compiled.invoke(Plain("a snake game"))


def test_a_graph_that_keeps_checkpoints_is_refused(model: ChatParrot) -> None:
    with pytest.raises(UsageError, match="checkpointer"):
        lazy(build(model, checkpointer=InMemorySaver()))
