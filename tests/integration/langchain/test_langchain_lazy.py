"""Lazy chains: the values of the eager chain, and the graph of its data flow."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import httpx2
import pytest

pytest.importorskip("langchain_openai", reason="needs the extra langchain: nox -s langchain")

from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import CommaSeparatedListOutputParser, JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
)

from parrot.errors import ParrotError
from parrot.integrations.langchain import ChatParrot, LazyChain, lazy, passes_text, reads_text

Chain: TypeAlias = Runnable[Any, Any]

MAP = ChatPromptTemplate.from_messages([("system", "You summarise."), ("human", "Summarise: {text}")])
REDUCE = ChatPromptTemplate.from_template("Combine these:\n{all}\nCombined:")
ASK = PromptTemplate.from_template("Say something about {input}.")
DOCUMENTS = ["tea and toast", "ships and storms", "maps of the north"]


@pytest.fixture(scope="module")
def model(url: str) -> ChatParrot:
    return ChatParrot(model="scripted", base_url=f"{url}/v1", max_tokens=8)


@pytest.fixture(scope="module")
def step(model: ChatParrot) -> Chain:
    return ASK | model | StrOutputParser()


def shape(chain: LazyChain[Any, Any]) -> tuple[int, set[tuple[int, int]]]:
    """Calls of the latest run, and its edges by the order of submission."""
    nodes = [graph.nodes for graph in chain.last_graphs]
    if not nodes:
        return 0, set()
    number = {node.name: index for index, node in enumerate(nodes[0])}
    return len(number), {(number[e.source], number[e.target]) for e in chain.last_graphs[0].edges}


def check(chain: Chain, value: Any) -> LazyChain[Any, Any]:
    """See that the lazy chain gives what the chain gives."""
    made = lazy(chain, keep_graph=True)
    expected = chain.invoke(value)
    assert made.invoke(value) == expected
    return made


def map_reduce(model: ChatParrot, joined: Callable[..., Any]) -> Chain:
    one = MAP | model | StrOutputParser()
    return (
        RunnableLambda(lambda texts: [{"text": text} for text in texts])
        | one.map()
        | joined
        | REDUCE
        | model
        | StrOutputParser()
    )


def test_map_reduce_is_one_graph(model: ChatParrot) -> None:
    chain = map_reduce(model, lambda texts: {"all": "\n".join(texts)})
    made = check(chain, DOCUMENTS)
    assert shape(made) == (4, {(0, 3), (1, 3), (2, 3)})


def test_a_function_that_reads_texts_is_a_barrier(model: ChatParrot) -> None:
    made = check(map_reduce(model, lambda texts: {"all": "\n".join(t.upper() for t in texts)}), DOCUMENTS)
    assert shape(made) == (4, set())


def test_what_a_function_does_can_be_declared(model: ChatParrot) -> None:
    @passes_text
    def passing(texts: list[str]) -> dict[str, str]:
        return {"all": "\n".join(text for text in texts if text is not None)}

    @reads_text
    def reading(texts: list[str]) -> dict[str, str]:
        return {"all": "\n".join(texts)}

    assert len(shape(check(map_reduce(model, passing), DOCUMENTS))[1]) == 3
    assert shape(check(map_reduce(model, reading), DOCUMENTS))[1] == set()


def test_parallel_assign_pick_and_passthrough_carry_texts(step: Chain) -> None:
    second = RunnableLambda(lambda found: {"input": found["first"]}) | step
    chain: Chain = RunnablePassthrough.assign(first=step) | RunnableParallel(
        second=second, whole=RunnablePassthrough(), first=RunnablePick("first")
    )
    made = check(chain, {"input": "tea"})
    assert shape(made) == (2, {(0, 1)})


def test_a_branch_reads_its_condition_only(step: Chain) -> None:
    branch = RunnableBranch(
        (lambda text: len(text) > 3, step), RunnableLambda(lambda text: f"short: {text}") | step
    )
    made = check(step | branch | step, "tea")
    assert shape(made) == (3, {(0, 1), (1, 2)})


def test_fallbacks_answer_for_what_fails(step: Chain, url: str) -> None:
    nobody = ChatParrot(model="nobody", base_url=f"{url}/v1", max_tokens=8)
    chain = (ASK | nobody | StrOutputParser()).with_fallbacks([step]) | step
    made = check(chain, "tea")
    assert shape(made)[0] == 2


@pytest.mark.parametrize(
    "parser", [CommaSeparatedListOutputParser(), RunnableLambda(lambda m: json.dumps(m.content))]
)
def test_parsers_get_texts(model: ChatParrot, parser: Chain) -> None:
    made = check(ASK | model | parser, "tea")
    assert shape(made)[0] == 1


def test_a_json_parser_says_what_it_says_eagerly(model: ChatParrot) -> None:
    chain = ASK | model | JsonOutputParser()
    with pytest.raises(Exception) as eager:  # noqa: PT011 - of whatever class, the two are the same
        chain.invoke("tea")
    with pytest.raises(type(eager.value)):
        lazy(chain).invoke("tea")


def test_messages_and_documents_come_back_with_texts(model: ChatParrot) -> None:
    answer = lazy(ASK | model).invoke("tea")
    assert isinstance(answer, AIMessage)
    assert answer.content == (ASK | model).invoke("tea").content
    put = ASK | model | StrOutputParser() | RunnableLambda(lambda text: [Document(page_content=text)])
    assert lazy(put).invoke("tea")[0].page_content == answer.content


@pytest.mark.asyncio(loop_scope="session")  # LangChain keeps connections, which belong to a loop
async def test_asynchronous_chains_are_the_same(model: ChatParrot, step: Chain) -> None:
    chain = map_reduce(model, lambda texts: {"all": "\n".join(texts)})
    made = lazy(chain, keep_graph=True)
    assert await made.ainvoke(DOCUMENTS) == await chain.ainvoke(DOCUMENTS)
    assert shape(made) == (4, {(0, 3), (1, 3), (2, 3)})
    assert await lazy(step).abatch(["a", "b"]) == await step.abatch(["a", "b"])
    assert "".join([piece async for piece in lazy(step | step).astream("a")]) == await (step | step).ainvoke(
        "a"
    )


def test_a_batch_is_one_session(step: Chain) -> None:
    chain = step | step
    assert lazy(chain).batch(["a", "b", "c"]) == chain.batch(["a", "b", "c"])


def test_a_batch_gives_errors_beside_values(model: ChatParrot) -> None:
    chain: Chain = ASK | model | StrOutputParser()
    good, bad = lazy(chain).batch(["a", "b" * 200_000], return_exceptions=True)
    assert good == chain.invoke("a")
    assert isinstance(bad, ParrotError)


def test_a_stream_comes_in_pieces_and_joins_to_the_value(step: Chain, model: ChatParrot) -> None:
    chain = (
        step | RunnableLambda(lambda text: f"So: {text}!") | step | RunnableLambda(lambda text: f"<{text}>")
    )
    pieces = list(lazy(chain).stream("tea"))
    assert pieces[0] == "<"
    assert "".join(pieces) == chain.invoke("tea")
    both = RunnableParallel(a=step, b=step)
    total: Any = None
    for piece in lazy(both).stream("tea"):
        total = piece if total is None else total + piece
    assert total == both.invoke("tea")
    messages = list(lazy(ASK | model).stream("tea"))
    assert "".join(str(message.content) for message in messages) == (ASK | model).invoke("tea").content


def test_a_lazy_chain_takes_part_in_another_ones_run(step: Chain) -> None:
    inner = lazy(step)
    made = lazy(step | inner | (lambda text: inner.invoke(text + ".")), keep_graph=True)
    assert made.invoke("tea") == (step | step | (lambda text: step.invoke(text + "."))).invoke("tea")
    assert shape(made) == (3, {(0, 1), (1, 2)})


def test_braces_in_texts_are_texts(model: ChatParrot) -> None:
    chain = (
        ASK | RunnableLambda(lambda prompt: f"{{{{x}}}} {prompt.text} {{{{{{{{") | model | StrOutputParser()
    )
    check(chain, "{{answer}} {x}")


def test_calls_that_ask_for_more_than_text_are_made_at_once(model: ChatParrot, step: Chain) -> None:
    counted = step | ASK | model.bind(logprobs=True)
    made = lazy(counted, keep_graph=True)
    assert made.invoke("tea").content == counted.invoke("tea").content
    assert shape(made)[0] == 1


def test_an_error_in_the_service_is_raised_where_the_value_is_wanted(model: ChatParrot) -> None:
    too_long = (
        ASK | model | StrOutputParser() | RunnableLambda(lambda text: (text + " ") + "x " * 3) | ASK | model
    )
    assert lazy(too_long).invoke("tea").content
    with pytest.raises(ParrotError) as raised:
        lazy(ASK | model).invoke("word " * 60_000)
    assert raised.value.code == "context_overflow"


def test_threads_have_runs_of_their_own(step: Chain) -> None:
    chain = lazy(step | step)

    async def many() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(chain.invoke, str(number)) for number in range(8)))

    assert asyncio.run(many()) == [(step | step).invoke(str(number)) for number in range(8)]


def test_who_reads_a_stream_is_not_in_its_run(step: Chain, model: ChatParrot) -> None:
    pieces = lazy(step).stream("tea")
    next(pieces)
    assert model.invoke("Hello").content.isprintable()
    pieces.close()


def test_a_program_may_end_right_after_its_run(url: str) -> None:
    program = f"""
from langchain_core.output_parsers import StrOutputParser
from parrot.integrations.langchain import ChatParrot, lazy
model = ChatParrot(model="scripted", base_url="{url}/v1", max_tokens=5)
print(lazy(model | StrOutputParser()).invoke("tea"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert httpx2.get(f"{url}/v1/sessions").json()["sessions"] == []
