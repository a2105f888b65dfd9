"""What an engine's calls hold of its memory: prefixes once, for as long as a call is behind them."""

from hypothesis import given
from hypothesis import strategies as st

from parrot.core.executor.fleet import Member, Share
from parrot.core.scheduler import ReadyCall
from parrot.types.ids import CallId, EngineId, PrefixKey


async def _start(_progress: object) -> object:
    raise NotImplementedError


def member() -> Member:
    return Member(engine_id=EngineId("e"), start=_start)  # type: ignore[arg-type]


def share(path: str, *, num_shared_tokens: int = 0, own: int = 5, output: int = 10) -> Share:
    """Of a call whose prompt begins with prefixes `a`, `ab`, …, 100 tokens longer each."""
    return Share.of(
        ReadyCall(
            call_id=CallId(path),
            model="m",
            keys=tuple(PrefixKey(path[: n + 1].encode()) for n in range(len(path))),
            lengths=tuple(100 * (n + 1) for n in range(len(path))),
            num_prompt_tokens=100 * len(path) + own,
            num_output_tokens=output,
        ),
        num_shared_tokens,
    )


def test_a_prefix_that_was_in_the_cache_takes_memory_once_a_call_is_behind_it() -> None:
    engine = member()
    first, second = share("ab", num_shared_tokens=200), share("ac", num_shared_tokens=200)
    engine.take(first)
    assert engine.num_tokens == 200 + 5 + 5
    assert engine.num_unfilled_tokens == 5
    engine.take(second)
    assert engine.num_tokens == 300 + 2 * 10


def test_a_prefix_is_held_until_the_last_of_its_calls_ends() -> None:
    engine = member()
    filler, reader = share("ab"), share("ab", num_shared_tokens=200)
    engine.take(filler)
    engine.take(reader)
    engine.give_back(filler)
    engine.give_back(filler)
    assert engine.num_tokens == 200 + 10
    engine.give_back(reader)
    assert engine.num_tokens == engine.num_unfilled_tokens == engine.num_calls == 0
    assert not engine.in_use


@given(st.lists(st.tuples(st.text("abc", min_size=0, max_size=4), st.integers(0, 3)), max_size=30))
def test_memory_is_what_distinct_prefixes_and_what_is_behind_them_take(steps: list[tuple[str, int]]) -> None:
    engine, there = member(), list[tuple[str, Share]]()
    for path, num_ended in steps:
        there.append((path, share(path)))
        engine.take(there[-1][1])
        for _ in range(min(num_ended, len(there))):
            engine.give_back(there.pop(0)[1])
        prefixes = {path[: n + 1] for path, _ in there for n in range(len(path))}
        assert engine.num_tokens == 100 * len(prefixes) + 10 * len(there)
