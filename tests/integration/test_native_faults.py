"""Native functions that misbehave, on a whole service: their variable fails, and nobody else does."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from sdk_harness import application, listening

import parrot
from parrot import Input, Output, native_function, semantic_function
from parrot.errors import CallError, ParrotError, WaitTimeoutError
from parrot.sdk.native import NativeFunction
from parrot.sdk.session import Session

MANY = 10_000_000
MAX_REASON = 2048


@semantic_function(max_tokens=8)
def read(text: Input, answer: Output) -> None:
    """Read {{text}}: {{answer}}"""


@native_function
def raises(_text: str) -> str:
    raise ValueError("x" * MANY)


@native_function
def writes_too_much(_text: str) -> str:
    return "x" * MANY


@native_function
def gives_no_text(_text: str) -> str:
    return "\ud800"


@native_function
def gives_no_json(_text: str) -> dict[str, bytes]:
    return {"a": b"\xff\xfe"}


@native_function
def gives_no_number(_text: str) -> float:
    return float("nan")


@native_function
def gives_another_type(_text: str) -> int:
    return "no number"  # type: ignore[return-value]


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with application() as app, listening(app) as url, parrot.connect(url) as session:
        yield session


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (raises, "native_failed"),
        (writes_too_much, "too_large"),
        (gives_no_text, "invalid_unicode"),
        (gives_no_json, "native_failed"),
        (gives_no_number, "native_failed"),
        (gives_another_type, "native_failed"),
    ],
)
async def test_what_a_function_cannot_give_fails_its_variable_and_what_reads_it_only(
    function: NativeFunction[object], code: str, session: Session
) -> None:
    first = read("a letter")
    bad = function(first)
    after, beside = read(bad), read("something else")
    with pytest.raises(ParrotError) as failed:
        await bad.get(timeout_s=20)
    with pytest.raises(CallError) as downstream:
        await after.get(timeout_s=20)
    assert (failed.value.code, len(failed.value.message) <= MAX_REASON) == (code, True)
    assert (downstream.value.code, downstream.value.data["root"]) == ("upstream_failed", code)
    assert await first
    assert await beside


async def test_a_function_that_never_returns_holds_up_only_what_reads_it() -> None:
    end = threading.Event()

    @native_function
    def never(text: str) -> str:
        end.wait(60)
        return text

    loop = asyncio.get_running_loop()
    async with application() as app, listening(app) as url:
        async with parrot.connect(url):
            waiting = read(never("a"))
            assert await read("b")
            with pytest.raises(WaitTimeoutError):
                await waiting.get(timeout_s=0.3)
            began_s = loop.time()
        took_s = loop.time() - began_s
    end.set()
    assert took_s < 5
