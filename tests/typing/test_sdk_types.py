"""What a type checker sees of the public interface: mypy checks each `assert_type`."""

from typing import Any, NamedTuple, assert_type

import pytest

import parrot
from parrot import Input, Output, SemanticVariable, native_function, semantic_function


class Pair(NamedTuple):
    code: SemanticVariable[Any]
    test: SemanticVariable[Any]


@semantic_function
def one(task: Input, code: Output) -> None:
    """Write {{task}}: {{code}}"""


@semantic_function(result=Pair, max_tokens=3)
def two(task: Input, code: Output, test: Output) -> None:
    """Write {{task}}: {{code}} {{test}}"""


@native_function
def count(parts: list[str]) -> int:
    return len(parts)


@native_function
async def count_later(parts: list[str]) -> int:
    return len(parts)


async def program() -> None:
    async with parrot.connect("http://127.0.0.1:8321") as session:
        assert_type(one(task="x"), SemanticVariable[Any])
        assert_type(two("x"), Pair)
        assert_type(session.call(two, "x"), Pair)
        assert_type(count([]), SemanticVariable[int])
        assert_type(await count_later([]), int)
        assert_type(session.variable("x"), SemanticVariable[str])
        assert_type(await session.variable("x").get(), str)
    with parrot.connect_sync(deadline_s=5.0) as blocking:
        assert_type(blocking.variable("x"), parrot.SyncVariable[str])
        assert_type(blocking.variable("x").get(timeout_s=1.0), str)


def test_calls_outside_a_session_raise_whatever_their_type() -> None:
    for call in (lambda: one("x"), lambda: two("x"), lambda: count([])):
        with pytest.raises(parrot.UsageError):
            call()
    assert callable(program)
