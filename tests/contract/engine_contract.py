"""What every engine does, whatever it is made of. `test_engine_contract.py` runs it over all of them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from parrot.errors import CallError, EngineError, InvalidError, ParrotError
from parrot.ports.engine import (
    ContextRef,
    Engine,
    EngineLoad,
    Evicted,
    FillRequest,
    FillResult,
    GenerateChunk,
    GenerateEnd,
    GenerateRequest,
    Lost,
)
from parrot.types.ids import ContextId, RequestId
from parrot.types.sampling import Sampling

BLOCK = 16
EMOJI_MARK = "Reply in signs"
EMOJI_ANSWER = "🙂 é 東京 🙂🙂 ß"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The engine that a test wants."""

    num_blocks: int = 128
    max_batch: int = 16
    step_tokens: int = 64
    context_tokens: int = 512


MakeEngine = Callable[[Shape], Awaitable[Engine]]


@dataclass(frozen=True, kw_only=True)
class Output:
    """All that one generation gave."""

    text: str
    token_ids: tuple[int, ...]
    end: GenerateEnd
    chunks: tuple[GenerateChunk, ...]


class Driver:
    """An engine, everything it has told, and short ways to ask it for something."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.evicted: list[ContextId] = []
        self.lost: Lost | None = None
        self._news = asyncio.Event()
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        async for notice in self.engine.notices():
            if isinstance(notice, Evicted):
                self.evicted += notice.context_ids
            if isinstance(notice, Lost):
                self.lost = notice
            self._news.set()

    async def until(self, holds: Callable[[EngineLoad], bool]) -> EngineLoad:
        """The engine's load, as soon as it is as wanted."""
        async with asyncio.timeout(20):
            while not holds(self.engine.load()):
                self._news.clear()
                await self._news.wait()
        return self.engine.load()

    async def idle(self) -> EngineLoad:
        """Its load, as soon as nothing is in use any more."""
        load = await self.until(lambda load: load.num_owned_blocks + load.num_running + load.num_waiting == 0)
        assert load.num_cached_blocks + load.num_free_blocks == self.engine.info.num_blocks
        return load

    async def close(self) -> None:
        await self.engine.close()
        await asyncio.wait_for(self._reading, 20)

    def ids(
        self, num_tokens: int, text: str = "the quick brown fox jumps over the lazy dog and "
    ) -> tuple[int, ...]:
        """Some prompt of an exact length."""
        tokens = self.engine.tokenizer.encode(text * (1 + 4 * num_tokens // len(text)))
        while len(tokens) < num_tokens:
            tokens += tokens
        return tokens[:num_tokens]

    async def fill(
        self,
        context: int,
        token_ids: Sequence[int],
        *,
        parent: tuple[int, int] | None = None,
        priority: int = 0,
    ) -> FillResult:
        request = FillRequest(
            request_id=RequestId(f"fill-{context}"),
            context_id=ContextId(context),
            token_ids=tuple(token_ids),
            parent=_reference(parent),
            priority=priority,
        )
        return await self.engine.fill(request)

    def stream(
        self,
        context: int,
        token_ids: Sequence[int],
        *,
        parent: tuple[int, int] | None = None,
        sampling: Sampling | None = None,
        priority: int = 0,
    ) -> AsyncGenerator[GenerateChunk, None]:
        request = GenerateRequest(
            request_id=RequestId(f"generate-{context}"),
            context_id=ContextId(context),
            token_ids=tuple(token_ids),
            sampling=sampling or exactly(12),
            parent=_reference(parent),
            priority=priority,
        )
        return self.engine.generate(request)

    async def generate(
        self,
        context: int,
        token_ids: Sequence[int],
        *,
        parent: tuple[int, int] | None = None,
        sampling: Sampling | None = None,
        priority: int = 0,
    ) -> Output:
        chunks = [
            chunk
            async for chunk in self.stream(
                context, token_ids, parent=parent, sampling=sampling, priority=priority
            )
        ]
        end = chunks[-1].end
        assert end is not None
        assert all(chunk.end is None for chunk in chunks[:-1])
        return Output(
            text="".join(chunk.text for chunk in chunks),
            token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
            end=end,
            chunks=tuple(chunks),
        )

    async def free(self, *contexts: int, retain: bool = False) -> None:
        await self.engine.free([ContextId(context) for context in contexts], retain=retain)


def exactly(num_tokens: int) -> Sampling:
    """Greedy, so many tokens whatever the model says."""
    return Sampling(max_tokens=num_tokens, ignore_eos=True)


def blocks(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK)


def _reference(parent: tuple[int, int] | None) -> ContextRef | None:
    return ContextRef(context_id=ContextId(parent[0]), num_tokens=parent[1]) if parent else None


@asynccontextmanager
async def driving(make_engine: MakeEngine, shape: Shape | None = None) -> AsyncIterator[Driver]:
    """An engine for one test; at its end nothing may be in use that the test did not leave in use."""
    driver = Driver(await make_engine(shape or Shape()))
    try:
        yield driver
    finally:
        await driver.close()


class EngineCoreContract:
    """The behaviours on which everything rests. For engines that are slow to start, these alone."""

    async def test_what_is_filled_and_generated_makes_one_context(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            filled = await driver.fill(1, driver.ids(20))
            output = await driver.generate(1, driver.ids(7), sampling=exactly(5))
            assert filled == FillResult(num_tokens=20, num_prefilled=20)
            assert (output.end.reason, output.end.num_tokens, len(output.token_ids)) == ("length", 32, 5)
            assert output.end.num_prefilled >= 7
            load = await driver.until(lambda load: load.num_decoded_tokens == 5)
            assert load.num_owned_blocks == blocks(32)
            await driver.free(1)
            assert (await driver.idle()).num_cached_blocks == 0

    async def test_the_text_is_the_same_whether_forked_or_whole(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            prompt = driver.ids(75)
            whole = await driver.generate(1, prompt)
            await driver.fill(2, prompt[:50])
            for number, at in enumerate((50, 48, 33, 1), start=10):
                forked = await driver.generate(number, prompt[at:], parent=(2, at))
                assert (at, forked.text) == (at, whole.text)
                assert forked.end.num_tokens == whole.end.num_tokens
            nested = await driver.generate(20, prompt[40:], parent=(10, 40))
            assert nested.text == whole.text

    async def test_a_fork_waits_for_a_parent_that_is_still_being_filled(
        self, make_engine: MakeEngine
    ) -> None:
        async with driving(make_engine) as driver:
            prompt = driver.ids(70)
            whole = await driver.generate(1, prompt)
            await driver.fill(2, prompt[:10])
            forked = asyncio.create_task(driver.generate(3, prompt[60:], parent=(2, 60)))
            grandchild = asyncio.create_task(driver.generate(4, prompt[65:], parent=(3, 65)))
            await driver.until(lambda load: load.num_waiting == 2)
            assert not forked.done()
            await driver.fill(2, prompt[10:64])
            assert (await forked).text == whole.text
            assert (await grandchild).text == whole.text

    async def test_n_forks_hold_one_prefix_and_n_suffixes_to_the_block(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            await driver.fill(1, driver.ids(37))
            for fork in range(5):
                await driver.fill(10 + fork, driver.ids(20), parent=(1, 37))
            load = await driver.until(lambda load: load.num_owned_blocks >= blocks(37) + 5 * blocks(20))
            assert load.num_owned_blocks == blocks(37) + 5 * blocks(20)
            await driver.free(1)
            await driver.free(*range(10, 14))
            await driver.until(lambda load: load.num_owned_blocks == blocks(37) + blocks(20))
            await driver.free(14)
            await driver.idle()

    async def test_leaving_a_generation_frees_it_and_leaves_others_unharmed(
        self, make_engine: MakeEngine
    ) -> None:
        async with driving(make_engine) as driver:
            prompt = driver.ids(30)
            alone = await driver.generate(1, prompt, sampling=exactly(40))
            await driver.free(1)
            other = asyncio.create_task(driver.generate(2, prompt, sampling=exactly(40)))
            stream = driver.stream(3, driver.ids(50), sampling=exactly(400))
            first = await anext(stream)
            await stream.aclose()
            assert first.end is None
            assert (await other).text == alone.text
            await driver.free(2, 3)
            await driver.idle()

    async def test_a_retained_context_is_cache_and_a_fork_of_it_fills_only_the_rest(
        self, make_engine: MakeEngine
    ) -> None:
        async with driving(make_engine) as driver:
            prompt = driver.ids(60)
            whole = await driver.generate(1, prompt)
            await driver.free(1)
            await driver.fill(2, prompt[:50])
            await driver.free(2, retain=True)
            assert (await driver.idle()).num_cached_blocks == blocks(50)
            forked = await driver.generate(3, prompt[50:], parent=(2, 50))
            assert (forked.text, forked.end.num_prefilled) == (whole.text, 10)
            await driver.free(3)
            assert (await driver.idle()).num_cached_blocks == blocks(50)
            await driver.free(2)
            await driver.until(lambda load: load.num_cached_blocks == 0)

    async def test_close_ends_what_is_under_way_and_can_be_repeated(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            await driver.fill(1, driver.ids(5))
            held = asyncio.create_task(driver.fill(3, driver.ids(5), parent=(1, 50)))
            await driver.until(lambda load: load.num_waiting == 1)
            await driver.engine.close()
            await driver.engine.close()
            with pytest.raises(EngineError) as ended:
                await held
            assert ended.value.code == "engine_lost"
            with pytest.raises(EngineError) as refused:
                await driver.fill(4, driver.ids(5))
            assert refused.value.code == "engine_lost"


class EngineContract(EngineCoreContract):
    """All of it."""

    async def test_requests_on_one_context_run_in_the_order_of_issue(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            prompt = driver.ids(60)
            whole = await driver.generate(1, prompt)
            first, second, output = await asyncio.gather(
                driver.fill(2, prompt[:20], priority=5),
                driver.fill(2, prompt[20:45], priority=3),
                driver.generate(2, prompt[45:], priority=0),
            )
            assert (first.num_tokens, second.num_tokens) == (20, 45)
            assert output.text == whole.text

    async def test_a_context_goes_on_after_an_output(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            start, middle = driver.ids(20), driver.ids(9)
            first = await driver.generate(1, start, sampling=exactly(6))
            second = await driver.generate(1, middle, sampling=exactly(6))
            whole = await driver.generate(2, start + first.token_ids + middle, sampling=exactly(6))
            assert second.text == whole.text
            assert second.end.num_tokens == whole.end.num_tokens == 41

    async def test_the_likelihood_of_each_token_is_told_to_who_asks(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            prompt = driver.ids(30)
            silent, chosen, beside = await asyncio.gather(
                driver.generate(1, prompt),
                driver.generate(2, prompt, sampling=replace(exactly(12), logprobs=0)),
                driver.generate(3, prompt, sampling=replace(exactly(12), logprobs=3)),
            )
            assert silent.token_ids == chosen.token_ids == beside.token_ids
            assert all(chunk.logprobs is None for chunk in silent.chunks)
            told = [each for chunk in beside.chunks for each in chunk.logprobs or ()]
            assert [each.token_id for each in told] == list(beside.token_ids)
            for each in told:
                token_ids, logprobs = zip(*each.top, strict=True)
                assert len(set(token_ids)) == 3
                assert list(logprobs) == sorted(logprobs, reverse=True)
                assert (token_ids[0], logprobs[0]) == (each.token_id, each.logprob)
            alone = [each for chunk in chosen.chunks for each in chunk.logprobs or ()]
            assert [each.top for each in alone] == [()] * 12
            assert [each.logprob for each in alone] == pytest.approx(
                [each.logprob for each in told], abs=1e-4
            )

    async def test_appending_to_a_parent_does_not_change_its_forks(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            prompt, other = driver.ids(40), driver.ids(25, "something else, and more of it ")
            whole = await driver.generate(1, prompt)
            await driver.fill(2, prompt[:30])
            await driver.fill(3, prompt[30:35], parent=(2, 30))
            await driver.fill(2, other)
            forked = await driver.generate(3, prompt[35:])
            assert forked.text == whole.text

    async def test_a_freed_parent_lives_on_while_a_fork_needs_it(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            prompt = driver.ids(40)
            whole = await driver.generate(1, prompt)
            await driver.fill(2, prompt[:30])
            await driver.fill(3, prompt[30:35], parent=(2, 30))
            await driver.free(1, 2)
            await driver.until(lambda load: load.num_owned_blocks == blocks(30) + blocks(5))
            assert (await driver.generate(3, prompt[35:])).text == whole.text
            with pytest.raises(EngineError) as gone:
                await driver.fill(4, prompt, parent=(2, 30))
            assert gone.value.code == "context_gone"
            await driver.free(3)
            await driver.idle()

    async def test_a_batch_gives_each_request_the_text_it_gets_alone(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            prompts = [driver.ids(20 + 7 * n, f"story number {n} about a house and ") for n in range(8)]
            alone = [await driver.generate(n, prompt) for n, prompt in enumerate(prompts)]
            batch = await asyncio.gather(
                *(driver.generate(100 + n, prompt) for n, prompt in enumerate(prompts))
            )
            assert [output.text for output in batch] == [output.text for output in alone]

    async def test_cancelling_a_fill_or_a_waiting_fork_leaves_nothing_behind(
        self, make_engine: MakeEngine
    ) -> None:
        async with driving(make_engine, Shape(step_tokens=16)) as driver:
            for delay_s in (0.0, 0.002, 0.01, 0.2):
                filling = asyncio.create_task(driver.fill(1, driver.ids(500)))
                waiting = asyncio.create_task(driver.fill(2, driver.ids(5), parent=(1, 505)))
                queued = asyncio.create_task(driver.fill(1, driver.ids(3)))
                await asyncio.sleep(delay_s)
                for task in (queued, waiting, filling):
                    task.cancel()
                results = await asyncio.gather(filling, waiting, queued, return_exceptions=True)
                assert isinstance(results[1], asyncio.CancelledError)
                await driver.free(1, 2)
                await driver.idle()
            assert (await driver.fill(3, driver.ids(9))).num_tokens == 9

    async def test_a_fork_of_nothing_says_context_gone_and_creates_nothing(
        self, make_engine: MakeEngine
    ) -> None:
        async with driving(make_engine) as driver:
            with pytest.raises(EngineError) as unknown:
                await driver.fill(2, driver.ids(5), parent=(1, 5))
            with pytest.raises(EngineError) as ungenerated:
                await driver.generate(2, driver.ids(5), parent=(1, 5))
            assert unknown.value.code == ungenerated.value.code == "context_gone"
            await driver.idle()
            assert (await driver.fill(2, driver.ids(5))).num_tokens == 5

    async def test_freeing_a_parent_too_short_for_a_waiting_fork_ends_the_fork(
        self, make_engine: MakeEngine
    ) -> None:
        async with driving(make_engine) as driver:
            await driver.fill(1, driver.ids(10))
            waiting = asyncio.create_task(driver.generate(2, driver.ids(5), parent=(1, 40)))
            await driver.until(lambda load: load.num_waiting == 1)
            await driver.free(1)
            with pytest.raises(EngineError) as gone:
                await waiting
            assert gone.value.code == "context_gone"
            await driver.free(2)
            await driver.idle()

    async def test_freeing_a_context_stops_the_work_on_it(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            stream = driver.stream(1, driver.ids(20), sampling=exactly(450))
            await anext(stream)
            await driver.free(1)
            with pytest.raises(EngineError) as gone:
                async for _ in stream:
                    pass
            assert gone.value.code == "context_gone"
            await driver.idle()

    async def test_freeing_what_is_not_there_is_no_error(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            await driver.free(77, 78)
            await driver.fill(1, driver.ids(5))
            await driver.free(1)
            await driver.free(1)
            assert (await driver.idle()).num_cached_blocks == 0

    async def test_more_than_the_window_is_refused_with_both_numbers(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine, Shape(context_tokens=100)) as driver:
            with pytest.raises(CallError) as overflow:
                await driver.generate(1, driver.ids(101))
            assert overflow.value.code == "context_overflow"
            assert {100, 101} <= set(overflow.value.data.values())
            assert (await driver.fill(2, driver.ids(100))).num_tokens == 100
            with pytest.raises(CallError):
                await driver.fill(2, driver.ids(1))
            await driver.free(1, 2)
            await driver.idle()

    async def test_a_generation_ends_where_the_window_ends(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine, Shape(context_tokens=100)) as driver:
            output = await driver.generate(1, driver.ids(90), sampling=exactly(50))
            assert (output.end.reason, output.end.num_tokens, len(output.token_ids)) == ("length", 100, 10)

    async def test_what_cannot_fit_even_alone_is_kv_exhausted(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine, Shape(num_blocks=8)) as driver:
            with pytest.raises(EngineError) as exhausted:
                await driver.fill(1, driver.ids(8 * BLOCK + 1))
            with pytest.raises(EngineError) as outgrown:
                await driver.generate(2, driver.ids(100), sampling=exactly(200))
            assert exhausted.value.code == outgrown.value.code == "kv_exhausted"
            await driver.free(1, 2)
            await driver.idle()
            assert (await driver.fill(3, driver.ids(8 * BLOCK))).num_tokens == 8 * BLOCK

    async def test_what_cannot_fit_even_alone_keeps_nobody_behind_it_waiting(
        self, make_engine: MakeEngine
    ) -> None:
        async with driving(make_engine, Shape(num_blocks=16)) as driver:
            long = asyncio.create_task(driver.generate(1, driver.ids(20), sampling=exactly(150)))
            await driver.until(lambda load: load.num_running == 1)
            too_large, small = await asyncio.gather(
                driver.fill(2, driver.ids(16 * BLOCK + 1)),
                driver.fill(3, driver.ids(20)),
                return_exceptions=True,
            )
            assert not long.done()
            assert isinstance(too_large, EngineError)
            assert too_large.code == "kv_exhausted"
            assert isinstance(small, FillResult)
            assert len((await long).token_ids) == 150
            await driver.free(1, 2, 3)
            await driver.idle()

    @pytest.mark.parametrize("wrong", ["no tokens wanted", "a fork before the first token"])
    async def test_what_makes_no_sense_is_refused(self, make_engine: MakeEngine, wrong: str) -> None:
        async with driving(make_engine) as driver:
            await driver.fill(1, driver.ids(20))
            sampling, parent = (exactly(0), (1, 20)) if wrong == "no tokens wanted" else (exactly(2), (1, -1))
            with pytest.raises(InvalidError):
                await asyncio.wait_for(driver.generate(2, driver.ids(3), parent=parent, sampling=sampling), 5)
            await driver.free(1, 2)
            await driver.idle()

    async def test_many_requests_finish_in_a_tiny_pool_with_the_text_they_have_alone(
        self, make_engine: MakeEngine
    ) -> None:
        async with driving(make_engine, Shape(num_blocks=12)) as driver:
            prompts = [driver.ids(30 + n, f"case {n} of the many cases ") for n in range(10)]
            alone = []
            for n, prompt in enumerate(prompts):
                alone.append(await driver.generate(n, prompt, sampling=exactly(60)))
                await driver.free(n)

            async def run(n: int) -> str:
                output = await driver.generate(100 + n, prompts[n], sampling=exactly(60))
                await driver.free(100 + n)
                return output.text

            together = await asyncio.gather(*(run(n) for n in range(10)))
            assert together == [output.text for output in alone]
            await driver.idle()

    async def test_contexts_that_idle_in_a_full_pool_do_not_block_each_other(
        self, make_engine: MakeEngine
    ) -> None:
        async with driving(make_engine, Shape(num_blocks=8)) as driver:
            prompts = [driver.ids(60, f"part {n} of it ") for n in range(2)]
            alone = []
            for n, prompt in enumerate(prompts):
                alone.append(await driver.generate(n, prompt, sampling=exactly(30)))
                await driver.free(n)
            for n in range(2):
                await driver.fill(10 + n, prompts[n][:59])
            async with asyncio.timeout(20):
                outputs = await asyncio.gather(
                    *(driver.generate(10 + n, prompts[n][59:], sampling=exactly(30)) for n in range(2))
                )
            assert [output.text for output in outputs] == [output.text for output in alone]

    async def test_cache_is_evicted_least_recently_used_first_and_it_is_told(
        self, make_engine: MakeEngine
    ) -> None:
        async with driving(make_engine, Shape(num_blocks=8)) as driver:
            for context in (1, 2, 3):
                await driver.fill(context, driver.ids(32, f"text {context} is this "))
                await driver.free(context, retain=True)
            await driver.fill(4, driver.ids(3), parent=(1, 32))
            await driver.free(4)
            await driver.idle()
            await driver.fill(5, driver.ids(3 * BLOCK))
            await driver.until(lambda _: bool(driver.evicted))
            assert driver.evicted == [2]
            await driver.until(lambda load: load.num_evictions == 1)
            with pytest.raises(EngineError) as gone:
                await driver.fill(6, driver.ids(3), parent=(2, 32))
            assert gone.value.code == "context_gone"
            assert (await driver.fill(7, driver.ids(3), parent=(1, 32))).num_prefilled == 3

    async def test_cache_that_is_worth_more_is_evicted_later(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine, Shape(num_blocks=8)) as driver:
            for context in (1, 2, 3):
                await driver.fill(context, driver.ids(32, f"text {context} is this "))
                await driver.free(context, retain=True)
            await driver.engine.appraise({ContextId(1): 50, ContextId(2): 7, ContextId(9): 3})
            await driver.idle()
            await driver.fill(5, driver.ids(5 * BLOCK))
            await driver.until(lambda _: len(driver.evicted) == 2)
            assert driver.evicted == [3, 2]
            await driver.engine.appraise({ContextId(1): 0})
            await driver.fill(6, driver.ids(2 * BLOCK))
            await driver.until(lambda _: len(driver.evicted) == 3)

    async def test_cache_that_is_in_use_is_not_evicted(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine, Shape(num_blocks=8)) as driver:
            await driver.fill(1, driver.ids(32))
            await driver.free(1, retain=True)
            await driver.fill(2, driver.ids(16), parent=(1, 32))
            await driver.until(lambda load: (load.num_owned_blocks, load.num_cached_blocks) == (3, 0))
            await driver.fill(3, driver.ids(5 * BLOCK))
            assert driver.evicted == []
            await driver.free(2, 3)
            assert (await driver.idle()).num_cached_blocks == 2

    async def test_output_ends_before_a_stop_string_wherever_tokens_end(
        self, make_engine: MakeEngine
    ) -> None:
        async with driving(make_engine) as driver:
            prompt = driver.ids(25)
            free = await driver.generate(1, prompt, sampling=exactly(40))
            middle = len(free.text) // 2
            for length in (1, 4, 9):
                stop = free.text[middle : middle + length]
                sampling = Sampling(max_tokens=40, ignore_eos=True, stop=("never said", stop))
                output = await driver.generate(10 + length, prompt, sampling=sampling)
                assert output.text == free.text[: free.text.index(stop)]
                assert (output.end.reason, output.end.exact) == ("stop", False)

    async def test_no_stop_is_heeded_before_min_tokens_and_ends_after_max_tokens(
        self, make_engine: MakeEngine
    ) -> None:
        async with driving(make_engine) as driver:
            prompt = driver.ids(25)
            free = await driver.generate(1, prompt, sampling=exactly(30))
            stop = free.text[:2]
            sampling = Sampling(max_tokens=30, min_tokens=10, stop=(stop,))
            output = await driver.generate(2, prompt, sampling=sampling)
            assert 10 <= len(output.token_ids) <= 30
            assert free.text.startswith(output.text)
            short = await driver.generate(3, prompt, sampling=exactly(1))
            assert (len(short.token_ids), short.end.reason) == (1, "length")

    async def test_one_seed_gives_one_text_and_another_seed_another(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            prompt = driver.ids(25)

            def sampling(seed: int) -> Sampling:
                return Sampling(max_tokens=20, ignore_eos=True, temperature=1.0, seed=seed)

            alone = await driver.generate(1, prompt, sampling=sampling(7))
            again, other = await asyncio.gather(
                driver.generate(2, prompt, sampling=sampling(7)),
                driver.generate(3, prompt, sampling=sampling(8)),
            )
            assert again.text == alone.text
            assert other.text != alone.text

    async def test_the_chunks_text_is_what_the_tokens_decode_to(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            signs = driver.engine.tokenizer.encode(EMOJI_MARK + ": ")
            prompts = [signs] + [driver.ids(20, f"prompt {n} of some ") for n in range(6)]
            for context, prompt in enumerate(prompts):
                output = await driver.generate(context, prompt, sampling=Sampling(max_tokens=40))
                decoded = driver.engine.tokenizer.decode(output.token_ids)
                assert decoded == output.text if output.end.exact else decoded.startswith(output.text)
                assert output.end.num_tokens == len(prompt) + len(output.token_ids)

    async def test_a_lower_priority_number_runs_first(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine, Shape(max_batch=1)) as driver:
            order: list[int] = []

            async def run(context: int, priority: int) -> None:
                await driver.generate(context, driver.ids(20), sampling=exactly(20), priority=priority)
                order.append(context)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(run(1, 0))
                await driver.until(lambda load: load.num_running == 1)
                for context, priority in ((2, 2), (3, 1), (4, 2)):
                    tasks.create_task(run(context, priority))
            assert order == [1, 3, 2, 4]

    async def test_one_requests_failure_is_its_own(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine, Shape(context_tokens=100)) as driver:
            prompt = driver.ids(30)
            alone = await driver.generate(1, prompt, sampling=exactly(30))
            beyond = driver.engine.tokenizer.vocab_size
            results = await asyncio.gather(
                driver.generate(2, prompt, sampling=exactly(30)),
                driver.generate(3, driver.ids(150)),
                driver.fill(4, (beyond,)),
                driver.fill(5, (-1,)),
                driver.generate(6, prompt, parent=(99, 4)),
                driver.generate(7, ()),
                driver.generate(8, prompt, sampling=exactly(30)),
                return_exceptions=True,
            )
            assert [result for result in results[1:6] if not isinstance(result, ParrotError)] == []
            outputs = [result for result in results if isinstance(result, Output)]
            assert [output.text for output in outputs] == [alone.text] * 2
            await driver.free(*range(1, 9))
            await driver.idle()
            assert driver.lost is None

    async def test_an_empty_fill_only_creates_the_context(self, make_engine: MakeEngine) -> None:
        async with driving(make_engine) as driver:
            assert await driver.fill(1, ()) == FillResult(num_tokens=0, num_prefilled=0)
            await driver.fill(2, driver.ids(20))
            assert await driver.fill(3, (), parent=(2, 20)) == FillResult(num_tokens=20, num_prefilled=0)
            whole = await driver.generate(1, driver.ids(20))
            assert (await driver.generate(3, ())).text == whole.text
