"""LangChain's classic patterns, eager and lazy: stuff, map-reduce, refine, retrieval with a rewritten
question, and a LangGraph team.

Each is an ordinary chain. `lazy(chain)` gives the same texts; the table says what it saved. A service has to
run, and LangChain to be installed (`pip install "parrot-llm[langchain]" langgraph`).

    python examples/langchain/patterns.py [URL] [MODEL] [ROUND_TRIP_S]

ROUND_TRIP_S puts the service so far away; without it, it is as near as it is.
"""

import operator
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import httpx2
from delay import far_away
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langgraph.graph import END, START, StateGraph

from parrot.integrations.langchain import ChatParrot, lazy

URL = "http://127.0.0.1:8321"
MAX_TOKENS = 40
EDITOR = "You are an editor who keeps to what the text says and leaves out what it does not. " * 12
PARTS = [
    f"Part {number}: " + "The parrot flew over the island and told what it had seen. " * 20
    for number in range(8)
]

Chain = Runnable[Any, Any]


def stuff(model: ChatParrot, editor: str) -> tuple[Chain, Any]:
    """All parts in one prompt: one call."""
    prompt = ChatPromptTemplate.from_messages([("system", editor), ("human", "Summarise:\n{text}")])
    joined = RunnableLambda(lambda parts: {"text": "\n".join(parts)})
    return joined | prompt | model | StrOutputParser(), PARTS


def map_reduce(model: ChatParrot, editor: str) -> tuple[Chain, Any]:
    """A call for each part, and one that combines the answers."""
    one = ChatPromptTemplate.from_messages([("system", editor), ("human", "Summarise:\n{text}")])
    all_of_them = ChatPromptTemplate.from_messages([("system", editor), ("human", "Combine:\n{text}")])
    mapped = (
        RunnableLambda(lambda parts: [{"text": part} for part in parts])
        | (one | model | StrOutputParser()).map()
    )
    combined = (
        RunnableLambda(lambda texts: {"text": "\n".join(texts)}) | all_of_them | model | StrOutputParser()
    )
    return mapped | combined, PARTS


def refine(model: ChatParrot, editor: str) -> tuple[Chain, Any]:
    """Each part refines what the parts before it gave: a chain of calls."""
    prompt = ChatPromptTemplate.from_messages(
        [("system", editor), ("human", "So far:\n{so_far}\nRefine it with:\n{part}")]
    )
    chain: Chain = RunnablePassthrough()
    for part in PARTS:
        given = RunnableLambda(lambda so_far, part=part: {"so_far": so_far, "part": part})
        chain = chain | given | prompt | model | StrOutputParser()
    return chain, "Nothing yet."


def retrieval(model: ChatParrot, editor: str) -> tuple[Chain, Any]:
    """Rewrite a question, retrieve with it, answer, check the answer. Retrieval needs the text: a barrier."""
    rewrite = ChatPromptTemplate.from_messages(
        [("system", editor), ("human", "Rewrite as a query: {question}")]
    )
    answer = ChatPromptTemplate.from_messages(
        [("system", editor), ("human", "{context}\n\nAnswer from this: {question}")]
    )
    check = ChatPromptTemplate.from_messages(
        [("system", editor), ("human", "{context}\n\nDoes this follow from it? {answer}")]
    )
    chain: Chain = (
        RunnablePassthrough.assign(query=rewrite | model | StrOutputParser())
        | RunnablePassthrough.assign(context=RunnableLambda(retrieve) | RunnableLambda(write_documents))
        | RunnablePassthrough.assign(answer=answer | model | StrOutputParser())
        | RunnablePassthrough.assign(verdict=check | model | StrOutputParser())
    )
    return chain, {"question": "What did the parrot tell?"}


def retrieve(found: dict[str, str]) -> list[Document]:
    """The parts that share most words with the query."""
    words = set(found["query"].lower().split())
    ranked = sorted(PARTS, key=lambda part: -len(words & set(part.lower().split())))
    return [Document(page_content=part) for part in ranked[:3]]


def write_documents(documents: list[Document]) -> str:
    """Documents as a prompt has them."""
    return "\n\n".join(document.page_content for document in documents)


class Project(TypedDict):
    """The team's state."""

    task: str
    design: str
    code: Annotated[list[str], operator.add]
    review: str


def team(model: ChatParrot, editor: str) -> tuple[Chain, Any]:
    """An architect, three coders and a reviewer as a LangGraph graph."""

    def architect(state: Project) -> dict[str, Any]:
        return {"design": model.invoke([("system", editor), ("human", "Design: " + state["task"])]).content}

    def coder(part: str) -> Callable[[Project], dict[str, Any]]:
        def write(state: Project) -> dict[str, Any]:
            answer = model.invoke([("system", editor), ("human", state["design"] + "\nWrite: " + part)])
            return {"code": [answer.content]}

        return write

    def reviewer(state: Project) -> dict[str, Any]:
        return {
            "review": model.invoke(
                [("system", editor), ("human", "Review:\n" + "\n".join(state["code"]))]
            ).content
        }

    graph = StateGraph(Project)
    graph.add_node("architect", architect)
    graph.add_node("reviewer", reviewer)
    graph.add_edge(START, "architect")
    graph.add_edge("reviewer", END)
    coders = ["model", "view", "controller"]
    for part in coders:
        graph.add_node(part, coder(part))
        graph.add_edge("architect", part)
    graph.add_edge(coders, "reviewer")
    return graph.compile(), {"task": "a snake game"}


PATTERNS = {"stuff": stuff, "map-reduce": map_reduce, "refine": refine, "retrieval": retrieval, "team": team}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one run took."""

    seconds: float
    prefilled_tokens: int
    decoded_tokens: int


def measured(run: Callable[[], Any], url: str) -> tuple[Any, Cost]:
    """A run's value and cost."""
    before, began = computed_tokens(url), time.perf_counter()
    value = run()
    seconds = time.perf_counter() - began
    prefilled, decoded = (now - then for now, then in zip(computed_tokens(url), before, strict=True))
    return value, Cost(seconds=seconds, prefilled_tokens=prefilled, decoded_tokens=decoded)


def computed_tokens(url: str) -> tuple[int, int]:
    """Tokens that the service's engines have prefilled and decoded so far."""
    engines = httpx2.get(f"{url}/v1/engines").json()["engines"]
    return (
        sum(engine["num_prefilled_tokens"] for engine in engines),
        sum(engine["num_decoded_tokens"] for engine in engines),
    )


def main(url: str = URL, name: str = "scripted", round_trip_s: str = "0") -> dict[str, tuple[Cost, Cost]]:
    """Run each pattern both ways, and print what it took."""
    with far_away(url, float(round_trip_s) / 2) if float(round_trip_s) else nullcontext(url) as address:
        return compare(address, url, name)


def compare(address: str, url: str, name: str) -> dict[str, tuple[Cost, Cost]]:
    """The same, through `address`, which leads to the service at `url`."""
    found: dict[str, tuple[Cost, Cost]] = {}
    print(f"{'pattern':<12}{'eager s':>9}{'lazy s':>9}{'gain':>7}{'eager prefill':>15}{'lazy prefill':>14}")
    model = ChatParrot(model=name, base_url=f"{address}/v1", max_tokens=MAX_TOKENS)
    model.invoke("Hello")
    for label, pattern in PATTERNS.items():
        costs = []
        for way in ("eager", "lazy"):
            # A first message of its own, so that no run finds another's prompts in the cache.
            chain, given = pattern(model, f"Run {time.time_ns()} {label} {way}. {EDITOR}")
            runnable = lazy(chain) if way == "lazy" else chain
            costs.append(measured(lambda run=runnable, value=given: run.invoke(value), url)[1])
        eager, quick = costs
        found[label] = (eager, quick)
        gain = eager.seconds / quick.seconds
        print(
            f"{label:<12}{eager.seconds:>9.2f}{quick.seconds:>9.2f}{gain:>6.2f}×"
            f"{eager.prefilled_tokens:>15,}{quick.prefilled_tokens:>14,}"
        )
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
