import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from parrot.errors import CallError, ConfigError, EngineError, InvalidError
from parrot.ports.engine import ContextRef, Evicted, FillRequest, GenerateChunk, GenerateRequest, LoadChanged
from parrot.sim.cost import PRESETS
from parrot.sim.engine import SimulatedConfig, SimulatedEngine
from parrot.sim.loop import VirtualLoop, run_virtual
from parrot.sim.tokens import MarkTokenizer
from parrot.types.ids import ContextId, EngineId, RequestId
from parrot.types.sampling import Sampling

COST = PRESETS["a100-80g-13b"].cost()
CONFIG = SimulatedConfig(cost=COST, num_blocks=1000, context_tokens=8000)


def made(config: SimulatedConfig = CONFIG) -> SimulatedEngine:
    return SimulatedEngine(config, EngineId("engine-0"))


def generation(
    context: int, prompt: int, output: int, *, parent: ContextRef | None = None, priority: int = 0
) -> GenerateRequest:
    return GenerateRequest(
        request_id=RequestId(f"request {context}"),
        context_id=ContextId(context),
        token_ids=(5,) * prompt,
        sampling=Sampling(max_tokens=output),
        parent=parent,
        priority=priority,
    )


async def read(engine: SimulatedEngine, request: GenerateRequest) -> tuple[list[GenerateChunk], list[float]]:
    chunks: list[GenerateChunk] = []
    times: list[float] = []
    async with aclosing(engine.generate(request)) as stream:
        async for chunk in stream:
            chunks.append(chunk)
            times.append(asyncio.get_running_loop().time())
    return chunks, times


def test_an_output_has_its_length_and_comes_back_as_text() -> None:
    async def main(_: VirtualLoop) -> list[GenerateChunk]:
        return (await read(made(), generation(1, 100, 50)))[0]

    first, last = run_virtual(main)
    ids = first.token_ids + last.token_ids
    assert (len(first.token_ids), len(ids)) == (1, 50)
    assert MarkTokenizer().encode(first.text + last.text) == ids
    assert last.end is not None
    assert (last.end.reason, last.end.exact) == ("length", True)
    assert (last.end.num_tokens, last.end.num_prefilled) == (150, 100)


def test_outputs_can_be_told_in_pieces_and_take_no_longer() -> None:
    async def main(_: VirtualLoop) -> tuple[list[int], float, float]:
        chunks, times = await read(made(replace(CONFIG, piece_tokens=16)), generation(1, 100, 50))
        whole = (await read(made(), generation(1, 100, 50)))[1]
        return [len(chunk.token_ids) for chunk in chunks], times[-1] - times[0], whole[-1] - whole[0]

    sizes, in_pieces_s, whole_s = run_virtual(main)
    assert sizes == [1, 15, 16, 16, 2]
    assert in_pieces_s == pytest.approx(whole_s)


def test_the_first_token_and_the_last_come_when_the_cost_model_says() -> None:
    async def main(_: VirtualLoop) -> list[float]:
        return (await read(made(), generation(1, 1000, 11)))[1]

    first_s, last_s = run_virtual(main)
    prefill_s = COST.step_s(num_tokens=1000, num_pairs=500_000, kv_tokens=0)
    decode_s = COST.decode(batch=1, num_context_tokens=1001, num_distinct_tokens=1001).total_s(10)
    assert first_s == pytest.approx(prefill_s)
    assert last_s == pytest.approx(prefill_s + decode_s)


def test_a_single_token_comes_in_one_chunk() -> None:
    async def main(_: VirtualLoop) -> list[GenerateChunk]:
        return (await read(made(), generation(1, 10, 1)))[0]

    (chunk,) = run_virtual(main)
    assert chunk.end is not None
    assert len(chunk.token_ids) == 1


def test_a_long_prompt_takes_a_step_for_each_chunk_and_others_decode_meanwhile() -> None:
    async def main(_: VirtualLoop) -> tuple[int, int]:
        engine = made(replace(CONFIG, step_tokens=1000))
        async with asyncio.TaskGroup() as group:
            group.create_task(read(engine, generation(1, 10, 6)))
            group.create_task(read(engine, generation(2, 5000, 1)))
        return engine.load().num_steps, engine.load().num_decoded_tokens

    assert run_virtual(main) == (6, 7)


def test_without_chunks_a_step_computes_whole_prompts_or_decodes() -> None:
    async def main(_: VirtualLoop) -> int:
        engine = made(replace(CONFIG, step_tokens=1000, chunked=False))
        async with asyncio.TaskGroup() as group:
            group.create_task(read(engine, generation(1, 10, 6)))
            group.create_task(read(engine, generation(2, 5000, 1)))
        return engine.load().num_steps

    assert run_virtual(main) == 1 + 1 + 5


def test_a_request_that_comes_in_between_joins_at_the_next_step() -> None:
    async def main(loop: VirtualLoop) -> tuple[float, float]:
        engine = made()
        long = asyncio.ensure_future(read(engine, generation(1, 10, 1000)))
        await asyncio.sleep(5.0)
        _, times = await read(engine, generation(2, 10, 1))
        _, ends = await long
        return times[0], ends[-1]

    joined_s, ended_s = run_virtual(main)
    step_s = COST.step_s(num_tokens=1, num_pairs=200, kv_tokens=200)
    assert 5.0 < joined_s < 5.0 + 3 * step_s
    assert ended_s > 1000 * step_s * 0.99


def test_forks_share_blocks_and_an_idle_engine_owns_none() -> None:
    async def main(_: VirtualLoop) -> tuple[int, int, int]:
        engine = made()
        await read(engine, generation(1, 160, 1))
        parent = ContextRef(context_id=ContextId(1), num_tokens=160)
        async with asyncio.TaskGroup() as group:
            for context in (2, 3, 4):
                group.create_task(read(engine, generation(context, 15, 1, parent=parent)))
        owned = engine.load().num_owned_blocks
        await engine.free([ContextId(context) for context in (1, 2, 3, 4)])
        return owned, engine.load().num_owned_blocks, engine.load().num_free_blocks

    assert run_virtual(main) == (11 + 3, 0, 1000)


def test_closing_a_generation_stops_its_work() -> None:
    async def main(_: VirtualLoop) -> tuple[int, int]:
        engine = made()
        async with aclosing(engine.generate(generation(1, 10, 4000))) as stream:
            await anext(stream)
        await asyncio.sleep(1000)
        return engine.load().num_running, engine.load().num_decoded_tokens

    running, decoded = run_virtual(main)
    assert running == 0
    assert decoded < 10


def test_freeing_a_context_ends_the_work_on_it() -> None:
    async def main(_: VirtualLoop) -> str:
        engine = made()
        task = asyncio.ensure_future(read(engine, generation(1, 10, 4000)))
        await asyncio.sleep(1)
        await engine.free([ContextId(1)])
        with pytest.raises(EngineError) as caught:
            await task
        return caught.value.code

    assert run_virtual(main) == "context_gone"


def test_a_closed_engine_takes_nothing_and_ends_what_runs() -> None:
    async def main(_: VirtualLoop) -> list[str]:
        engine = made()
        task = asyncio.ensure_future(read(engine, generation(1, 10, 4000)))
        await asyncio.sleep(1)
        await engine.close()
        codes: list[str] = []
        for running in (task, read(engine, generation(2, 10, 10))):
            with pytest.raises(EngineError) as caught:
                await running
            codes.append(caught.value.code)
        return codes

    assert run_virtual(main) == ["engine_lost", "engine_lost"]


@pytest.mark.parametrize(
    ("prompt", "parent", "error", "code"),
    [
        (8000, None, CallError, "context_overflow"),
        (5000, None, EngineError, "kv_exhausted"),
        (0, None, InvalidError, "invalid"),
        (5, ContextRef(context_id=ContextId(9), num_tokens=3), EngineError, "context_gone"),
    ],
)
def test_what_cannot_run_fails_and_harms_nothing_else(
    prompt: int, parent: ContextRef | None, error: type[Exception], code: str
) -> None:
    async def main(_: VirtualLoop) -> str:
        engine = made(replace(CONFIG, num_blocks=200))
        other = asyncio.ensure_future(read(engine, generation(1, 10, 20)))
        with pytest.raises(error) as caught:
            await read(engine, generation(2, prompt, 5, parent=parent))
        await other
        return str(getattr(caught.value, "code", ""))

    assert run_virtual(main) == code


def test_cache_is_evicted_when_memory_is_short_and_that_is_told() -> None:
    async def main(_: VirtualLoop) -> tuple[set[int], int]:
        engine = made(replace(CONFIG, num_blocks=20))
        for context in (1, 2, 3):
            await read(engine, generation(context, 100, 1))
            await engine.free([ContextId(context)], retain=True)
        await asyncio.sleep(5)
        evicted: set[int] = set()
        loads: list[int] = []
        async for notice in engine.notices():
            if isinstance(notice, Evicted):
                evicted.update(notice.context_ids)
            elif isinstance(notice, LoadChanged):
                loads.append(notice.load.num_evictions)
                break
        return evicted, loads[-1]

    assert run_virtual(main) == ({1}, 1)


def test_a_fill_ends_with_its_tokens() -> None:
    async def main(_: VirtualLoop) -> tuple[int, int]:
        engine = made()
        request = FillRequest(request_id=RequestId("fill"), context_id=ContextId(1), token_ids=(1,) * 70)
        result = await engine.fill(request)
        return result.num_tokens, result.num_prefilled

    assert run_virtual(main) == (70, 70)


def test_a_better_priority_is_served_first() -> None:
    async def main(_: VirtualLoop) -> list[int]:
        engine = made(replace(CONFIG, max_batch=1))
        ended: list[int] = []

        async def run(context: int, priority: int) -> None:
            await read(engine, generation(context, 10, 5, priority=priority))
            ended.append(context)

        async with asyncio.TaskGroup() as group:
            for context, priority in ((1, 3), (2, 2), (3, 1)):
                group.create_task(run(context, priority))
        return ended

    assert run_virtual(main) == [3, 2, 1]


def test_an_engine_without_room_is_refused() -> None:
    with pytest.raises(ConfigError):
        SimulatedConfig(cost=COST, num_blocks=0)
