"""Registered functions from Python: registered from a declaration, called by name, the same text."""

from typing import Annotated, Any

import pytest
from sdk_harness import embedded_session

import parrot
from parrot import Input, Join, Output, Sampling, semantic_function
from parrot.errors import NotFoundError, UsageError


@semantic_function(max_tokens=6)
def translate(text: Input, translation: Output, tone: Input = "dry") -> None:
    """You translate. Tone: {{tone}}. Text: {{text}} Translation: {{translation}}"""


@semantic_function(
    messages=[parrot.system("You review."), parrot.user("{{code}}"), parrot.assistant("{{verdict}}")]
)
def review(code: Input, verdict: Annotated[Output, Sampling(max_tokens=4)]) -> None:
    """Says what is wrong with code."""


@semantic_function(max_tokens=5)
def split(text: Input, first: Output, second: Output) -> None:
    """Text: {{text}} First: {{first}} Second: {{second}}"""


@semantic_function(max_tokens=5)
def join(texts: Annotated[Input, Join()], whole: Output) -> None:
    """{{texts}} Whole: {{whole}}"""


async def test_a_registered_function_gives_what_its_declaration_gives() -> None:
    async with embedded_session() as session:
        registered = await session.register(translate)
        assert await registered(text="Hallo") == await translate(text="Hallo")
        assert await registered("Hallo", tone="loud") == await translate("Hallo", tone="loud")


async def test_a_function_is_called_by_its_name_alone() -> None:
    async with embedded_session() as session:
        await session.register(review, warm=True)
        by_name = await session.function("review")
        assert by_name.__doc__ == "Says what is wrong with code."
        assert await by_name(code="x = 1") == await review(code="x = 1")


async def test_registered_calls_are_nodes_of_the_graph_like_others() -> None:
    async with embedded_session() as session:
        registered = await session.register(translate)
        review_by_name = await session.register(review)
        await review_by_name(code=registered(text="Hallo"))
        graph = await session.graph()
        assert len(graph.edges) == 1


async def test_several_outputs_come_as_a_named_tuple() -> None:
    async with embedded_session() as session:
        registered = await session.register(split)
        first: Any = registered(text="a b")
        second: Any = split(text="a b")
        assert await session.gather(*first) == await session.gather(*second)
        assert first._fields == ("first", "second")


async def test_a_version_stays_what_it_was() -> None:
    async with embedded_session() as session:
        await session.register(translate)
        before = await (await session.function("translate"))(text="Hallo")

        @semantic_function(name="translate", max_tokens=6)
        def other(text: Input, translation: Output) -> None:
            """Say it otherwise: {{text}} {{translation}}"""

        assert await (await session.register(other))(text="Hallo") != before
        assert await (await session.function("translate@1"))(text="Hallo") == before


async def test_a_function_over_a_list_cannot_be_registered() -> None:
    async with embedded_session() as session:
        with pytest.raises(UsageError, match="texts takes a list"):
            await session.register(join)


async def test_a_function_that_nobody_registered_is_not_found() -> None:
    async with embedded_session() as session:
        with pytest.raises(NotFoundError, match="function_not_found"):
            await session.function("nobody")


def test_blocking_programs_have_the_same() -> None:
    with parrot.connect_sync(engine="scripted") as session:
        registered: Any = session.register(translate)
        assert registered(text="Hallo").get() == session.function("translate")(text="Hallo").get()
