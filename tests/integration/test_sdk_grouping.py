"""Calls that only happen to go in one request stand and fall each by itself; a batch does so as a whole."""

import asyncio

import pytest
from sdk_harness import SCRIPTED, embedded_session

from parrot import Input, Output, semantic_function
from parrot.errors import CallError, ParrotError

TOO_LONG = "tea " * 40_000


@semantic_function(max_tokens=8)
def say(text: Input, answer: Output) -> None:
    """Say something about {{text}}: {{answer}}"""


async def test_a_call_that_is_refused_takes_no_other_along() -> None:
    async with embedded_session(SCRIPTED):
        variables = [say(text) for text in ("a", "b", TOO_LONG, "c", "d")]
        results = await asyncio.gather(*variables, return_exceptions=True)
    assert [type(result) for result in results] == [str, str, CallError, str, str]


async def test_what_depends_on_a_refused_call_fails_and_nothing_else() -> None:
    async with embedded_session(SCRIPTED):
        refused = say(TOO_LONG)
        after, beside = say(refused), say("b")
        results = await asyncio.gather(refused, after, beside, return_exceptions=True)
    assert isinstance(results[0], CallError)
    assert isinstance(results[1], ParrotError)
    assert isinstance(results[2], str)


async def test_an_explicit_batch_is_refused_as_a_whole() -> None:
    async with embedded_session(SCRIPTED) as session:
        group = session.batch()
        await group.__aenter__()
        good, _ = say("a"), say(TOO_LONG)
        with pytest.raises(CallError):
            await group.__aexit__(None, None, None)
        with pytest.raises(ParrotError):
            await good
