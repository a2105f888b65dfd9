"""Prompt functions as graphs: the texts that they have without, in one request, with the edges that templates
write.
"""

import asyncio
from typing import Any

import httpx2
import pytest

pytest.importorskip("semantic_kernel", reason="needs the extra semantic-kernel: nox -s semantic_kernel")

from semantic_kernel import Kernel
from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
from semantic_kernel.exceptions import KernelInvokeException
from semantic_kernel.filters import FilterTypes
from semantic_kernel.functions import KernelFunction, kernel_function
from semantic_kernel.prompt_template import PromptTemplateConfig

from parrot.errors import NotFoundError, UsageError
from parrot.integrations.background import Connections
from parrot.integrations.semantic_kernel import (
    KernelGraphs,
    ParrotChatCompletion,
    ParrotChatPromptExecutionSettings,
    compile_prompt,
    lazy,
)

SUMMARISE = "Summarise: {{$text}}"
TITLE = """
<message role="system">You write titles.</message>
<message role="user">A title in {{$style}} style for: {{doc.summarise $text}}</message>
"""
BOTH = "On {{clock.today}}: {{doc.title}}\n{{doc.summarise text='ships'}}\nWhich is better?"
ARGUMENTS = {"text": "The <b>parrot</b> flew & sang.", "style": "brief"}


class Clock:
    """A plugin whose function is native."""

    def __init__(self) -> None:
        self.asked = 0

    @kernel_function
    def today(self) -> str:
        self.asked += 1
        return "Monday <& morning>"


@pytest.fixture
def kernel(chat: Any) -> Kernel:
    made = Kernel(services=chat())
    made.add_function("doc", prompt=SUMMARISE, function_name="summarise")
    made.add_function("doc", prompt=TITLE, function_name="title")
    made.add_plugin(Clock(), "clock")
    made.add_function("doc", prompt=BOTH, function_name="both")
    return made


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Methods and paths of what graphs send."""
    sent: list[tuple[str, str]] = []
    send = Connections.handle_async_request

    async def watched(self: Connections, request: httpx2.Request) -> httpx2.Response:
        sent.append((request.method, request.url.path.rpartition("/")[2]))
        return await send(self, request)

    monkeypatch.setattr(Connections, "handle_async_request", watched)
    return sent


async def text_of(kernel: Kernel, name: str, **arguments: str) -> str:
    return str(await kernel.invoke(plugin_name="doc", function_name=name, **(arguments or ARGUMENTS)))


def shape(graphs: KernelGraphs) -> tuple[int, set[tuple[int, int]]]:
    """Calls and edges, by the numbers that end the calls' names."""
    if not graphs.last_graphs:
        return 0, set()
    (graph,) = graphs.last_graphs
    return len(graph.nodes), {
        (int(edge.source.rpartition("_")[2]) - 1, int(edge.target.rpartition("_")[2]) - 1)
        for edge in graph.edges
    }


async def test_nested_prompts_are_one_graph_in_one_request(
    kernel: Kernel, requests: list[tuple[str, str]]
) -> None:
    expected = await text_of(kernel, "both")
    graphs = lazy(kernel, keep_graph=True)
    assert await text_of(kernel, "both") == expected
    assert shape(graphs) == (4, {(0, 1), (1, 3), (2, 3)})
    assert [path for method, path in requests if method == "POST"] == ["run"]


async def test_what_is_submitted_was_known_before(kernel: Kernel) -> None:
    prompt = compile_prompt(kernel, kernel.get_function("doc", "both"))
    assert prompt.calls() == ["doc-summarise", "doc-title", "doc-summarise", "doc-both"]
    assert prompt.edges() == [(0, 1), (1, 3), (2, 3)]
    assert [(found.name, found.reason) for found in prompt.barriers.values()] == [
        ("clock-today", "it is no prompt")
    ]


async def test_a_native_function_runs_once_and_first(kernel: Kernel) -> None:
    clock = Clock()
    kernel.add_plugin(clock, "clock")
    lazy(kernel)
    await text_of(kernel, "both")
    assert clock.asked == 1


async def test_a_streamed_graph_has_the_same_text(kernel: Kernel) -> None:
    expected = await text_of(kernel, "both")
    lazy(kernel)
    pieces = [
        piece async for piece in kernel.invoke_stream(plugin_name="doc", function_name="both", **ARGUMENTS)
    ]
    assert "".join(piece[0].content for piece in pieces) == expected
    assert len(pieces) > 1


async def test_constants_and_values_are_segments_of_their_own(kernel: Kernel, url: str) -> None:
    graphs = lazy(kernel, keep_graph=True)
    await text_of(kernel, "both")
    (graph,) = graphs.last_graphs
    assert {node.state for node in graph.nodes} == {"done"}
    assert {name.rpartition("_")[0] for name in (node.name for node in graph.nodes)} == {
        "doc_summarise",
        "doc_title",
        "doc_both",
    }


async def test_one_prompt_alone_is_one_request(kernel: Kernel, requests: list[tuple[str, str]]) -> None:
    lazy(kernel)
    assert await text_of(kernel, "summarise")
    assert requests == []


async def test_many_graphs_at_a_time(kernel: Kernel) -> None:
    texts = [f"story {number}" for number in range(8)]
    expected = [await text_of(kernel, "title", text=text, style="brief") for text in texts]
    lazy(kernel)
    found = await asyncio.gather(*(text_of(kernel, "title", text=text, style="brief") for text in texts))
    assert found == expected


async def test_stopped_it_sends_request_after_request(
    kernel: Kernel, requests: list[tuple[str, str]]
) -> None:
    graphs = lazy(kernel)
    graphs.stop()
    assert await text_of(kernel, "both")
    assert requests == []


async def test_other_filters_see_every_call(kernel: Kernel, requests: list[tuple[str, str]]) -> None:
    seen: list[str] = []

    async def watch(context: Any, next: Any) -> None:  # noqa: A002
        seen.append(context.function.name)
        await next(context)

    lazy(kernel)
    kernel.add_filter(FilterTypes.FUNCTION_INVOCATION, watch)
    await text_of(kernel, "both")
    assert seen == ["both", "today", "title", "summarise", "summarise"]
    assert requests == []


def with_tools(kernel: Kernel) -> KernelFunction:
    settings = ParrotChatPromptExecutionSettings(function_choice_behavior=FunctionChoiceBehavior.Auto())
    return kernel.add_function(
        "doc", prompt="Use tools: {{$text}}", function_name="tools", prompt_execution_settings=settings
    )


def in_jinja(kernel: Kernel) -> KernelFunction:
    return kernel.add_function(
        "doc", prompt="Jinja: {{text}}", function_name="jinja", template_format="jinja2"
    )


def elsewhere(kernel: Kernel) -> KernelFunction:
    kernel.add_service(
        ParrotChatCompletion("scripted", base_url="http://localhost:1/v1", service_id="elsewhere")
    )
    settings = ParrotChatPromptExecutionSettings(service_id="elsewhere")
    return kernel.add_function(
        "doc", prompt="Elsewhere: {{$text}}", function_name="elsewhere", prompt_execution_settings=settings
    )


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (with_tools, "the model may call functions"),
        (in_jinja, "its template is written in jinja2"),
        (elsewhere, "another service answers it"),
    ],
)
async def test_a_barrier_says_why(kernel: Kernel, made: Any, reason: str) -> None:
    name = made(kernel).name
    outer = kernel.add_function("doc", prompt=f"Outer: {{{{doc.{name}}}}}", function_name="outer")
    prompt = compile_prompt(kernel, outer)
    assert [found.reason for found in prompt.barriers.values()] == [reason]
    assert prompt.calls() == ["doc-outer"]


@pytest.mark.parametrize(
    "given", ["$text", "'tea'", "text=$text", "text='a&b'", "$style text=$text", "$none"]
)
async def test_a_call_in_a_template_is_given_what_it_says(kernel: Kernel, given: str) -> None:
    function = kernel.add_function(
        "doc", prompt=f"Shorten: {{{{doc.summarise {given}}}}}", function_name="short"
    )
    eager = str(await kernel.invoke(function, **ARGUMENTS))
    assert len(compile_prompt(kernel, function).nested) == 1
    graphs = lazy(kernel, keep_graph=True)
    assert str(await kernel.invoke(function, **ARGUMENTS)) == eager
    assert len(graphs.last_graphs[0].nodes) == 2


async def test_arguments_for_a_prompt_that_takes_none_fail_as_without_graphs(kernel: Kernel) -> None:
    kernel.add_function("doc", prompt="Say something.", function_name="constant")
    function = kernel.add_function(
        "doc", prompt="{{doc.summarise}} {{doc.constant 'tea'}}", function_name="wrong"
    )
    (barrier,) = compile_prompt(kernel, function).barriers.values()
    assert barrier.reason == "it takes no arguments, and is given some"
    with pytest.raises(KernelInvokeException) as eager:
        await kernel.invoke(function, **ARGUMENTS)
    lazy(kernel)
    with pytest.raises(KernelInvokeException) as told:
        await kernel.invoke(function, **ARGUMENTS)
    assert type(told.value.__cause__) is type(eager.value.__cause__)


async def test_a_barrier_between_prompts(kernel: Kernel) -> None:
    in_jinja(kernel)
    kernel.add_function("doc", prompt="{{doc.jinja}} and {{doc.title}}: which?", function_name="outer")
    expected = await text_of(kernel, "outer")
    graphs = lazy(kernel, keep_graph=True)
    assert await text_of(kernel, "outer") == expected
    assert shape(graphs) == (3, {(0, 1), (1, 2)})


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("<message role='user'><image>http://x</image></message>", "more than text"),
        ("<message role='tool'>{{$text}}</message>", "more than text"),
    ],
)
async def test_what_is_more_than_text_is_refused(kernel: Kernel, prompt: str, reason: str) -> None:
    function = kernel.add_function("doc", prompt=prompt, function_name="rich")
    with pytest.raises(UsageError, match=reason):
        compile_prompt(kernel, function)


async def test_a_template_that_lets_arguments_write_messages_is_refused(kernel: Kernel) -> None:
    config = PromptTemplateConfig(
        name="unsafe",
        template="{{$text}}",
        input_variables=[{"name": "text", "allow_dangerously_set_content": True}],
    )
    function = kernel.add_function("doc", function_name="unsafe", prompt_template_config=config)
    with pytest.raises(UsageError, match="lets arguments write messages"):
        compile_prompt(kernel, function)


async def test_a_prompt_that_calls_itself_is_refused_as_an_edge(kernel: Kernel) -> None:
    function = kernel.add_function("doc", prompt="Again: {{doc.again}}", function_name="again")
    assert [found.reason for found in compile_prompt(kernel, function).barriers.values()] == [
        "it calls itself"
    ]


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_graph_says_why_it_failed(chat: Any, *, streaming: bool) -> None:
    kernel = Kernel(services=chat("nobody"))
    kernel.add_function("doc", prompt=SUMMARISE, function_name="summarise")
    function = kernel.add_function("doc", prompt=TITLE, function_name="title")
    lazy(kernel)

    async def streamed() -> list[Any]:
        return [piece async for piece in kernel.invoke_stream(function, **ARGUMENTS)]

    with pytest.raises(Exception) as caught:  # noqa: PT011 - a stream's are not wrapped
        await (streamed() if streaming else kernel.invoke(function, **ARGUMENTS))
    error: BaseException | None = caught.value
    assert isinstance(error, KernelInvokeException) or streaming
    while error is not None and not isinstance(error, NotFoundError):
        error = error.__cause__
    assert isinstance(error, NotFoundError)


async def test_sessions_are_left(kernel: Kernel, url: str) -> None:
    lazy(kernel)
    await text_of(kernel, "both")
    async with httpx2.AsyncClient() as client, asyncio.timeout(30):
        while sessions := (await client.get(f"{url}/v1/sessions")).json()["sessions"]:
            await asyncio.sleep(0.05)
    assert sessions == []
