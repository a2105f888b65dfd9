"""The torch engine's own behaviours, beside those of the contract that all engines keep."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch_driver import Driver, StartDriver

from parrot.engine.torch.batcher import Chunk
from parrot.engine.torch.runner import Runner
from parrot.errors import EngineError, InvalidError, ParrotError
from parrot.ports.engine import Evicted, Notice
from parrot.types.ids import ContextId

POISON = 111
Run = Any


def prompt(length: int, seed: int = 0) -> list[int]:
    return Random(seed).choices(range(120, 380), k=length)


def break_runner(monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    """`fault(chunks, logits)` sees every run of a step, before (logits None) and after."""
    run = Runner.run

    def broken(self: Runner, chunks: Sequence[Chunk], on_ready: Callable[[], None]) -> torch.Tensor:
        fault(chunks, None)
        logits = run(self, chunks, on_ready)
        fault(chunks, logits)
        return logits

    monkeypatch.setattr(Runner, "run", broken)


@pytest.mark.parametrize("where", [0, 5, 16, 21, 48])
async def test_forks_hold_one_prefix_and_their_suffixes_to_the_block(driver: Driver, where: int) -> None:
    await driver.fill(1, prompt(50))
    prefix = driver.engine.load().num_owned_blocks
    assert prefix == 4
    async with asyncio.TaskGroup() as group:
        for i in range(7):
            group.create_task(driver.fill(10 + i, prompt(18, i), (1, where)))
    assert driver.engine.load().num_owned_blocks == prefix + 7 * 2
    await driver.free(1)
    assert driver.engine.load().num_owned_blocks == (7 * 2 if where == 0 else prefix + 7 * 2)
    await driver.free(*range(10, 17))
    assert driver.engine.load().num_owned_blocks == 0
    assert driver.engine.load().num_free_blocks == driver.engine.info.num_blocks


async def test_a_prefix_that_many_wait_for_is_computed_once(driver: Driver) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(driver.fill(1, prompt(100)))
        await asyncio.sleep(0)
        for i in range(10):
            group.create_task(driver.fill(10 + i, prompt(5, i), (1, 100)))
    assert driver.engine.load().num_prefilled_tokens == 100 + 10 * 5


async def test_a_fork_may_follow_an_output_that_is_being_generated(driver: Driver) -> None:
    async with asyncio.TaskGroup() as group:
        first = group.create_task(driver.generate(1, prompt(10), max_tokens=20, ignore_eos=True))
        await asyncio.sleep(0)
        ahead = group.create_task(driver.generate(2, [], (1, 25), max_tokens=5, ignore_eos=True))
    assert ahead.result().token_ids == first.result().token_ids[15:20]


async def test_a_poisoned_request_fails_alone(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(chunks: Sequence[Chunk], logits: torch.Tensor | None) -> None:
        if logits is None and any(POISON in chunk.request.token_ids for chunk in chunks):
            raise RuntimeError("poisoned")

    expected = [await driver.generate(i, prompt(9, i), max_tokens=6) for i in range(1, 6)]
    break_runner(monkeypatch, fault)
    results = await asyncio.gather(
        *(driver.generate(10 + i, prompt(9, i), max_tokens=6) for i in range(1, 6)),
        driver.generate(20, [POISON, 5], max_tokens=6),
        return_exceptions=True,
    )
    error = results.pop()
    assert isinstance(error, EngineError)
    assert error.code == "engine_failed"
    assert [r.token_ids for r in results if not isinstance(r, BaseException)] == [
        e.token_ids for e in expected
    ]
    await driver.free(*range(1, 21))
    assert driver.engine.load().num_owned_blocks == 0


async def test_numbers_that_are_not_finite_fail_their_request_only(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(chunks: Sequence[Chunk], logits: torch.Tensor | None) -> None:
        if logits is not None:
            wanting = [chunk for chunk in chunks if chunk.wants_logits]
            for row, chunk in enumerate(wanting):
                if POISON in chunk.request.token_ids:
                    with torch.inference_mode():
                        logits[row, 3] = float("nan")

    break_runner(monkeypatch, fault)
    good, bad = await asyncio.gather(
        driver.generate(1, prompt(9), max_tokens=6, ignore_eos=True),
        driver.generate(2, [POISON], max_tokens=6),
        return_exceptions=True,
    )
    assert isinstance(bad, EngineError)
    assert bad.code == "engine_bad_output"
    assert not isinstance(good, BaseException)
    assert len(good.token_ids) == 6


async def test_a_step_too_large_for_memory_is_made_smaller(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await driver.generate(1, prompt(200), max_tokens=6)

    def fault(chunks: Sequence[Chunk], logits: torch.Tensor | None) -> None:
        if logits is None and sum(chunk.num_tokens for chunk in chunks) > 70:
            raise torch.OutOfMemoryError("too large")

    break_runner(monkeypatch, fault)
    assert (await driver.generate(2, prompt(200), max_tokens=6)).token_ids == expected.token_ids


async def test_a_request_that_no_step_has_memory_for_fails_alone_and_makes_nobody_slower(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def fault(chunks: Sequence[Chunk], logits: torch.Tensor | None) -> None:
        if logits is None:
            if any(POISON in chunk.request.token_ids for chunk in chunks):
                raise torch.OutOfMemoryError("too large")
            sizes.append(sum(chunk.num_tokens for chunk in chunks))

    break_runner(monkeypatch, fault)
    expected = await driver.generate(1, prompt(200), max_tokens=6)
    before = max(sizes)
    sizes.clear()
    with pytest.raises(EngineError) as failed:
        await driver.generate(2, [POISON, *prompt(150)], max_tokens=6)
    again = await driver.generate(3, prompt(200), max_tokens=6)
    await driver.free(1, 2, 3)
    assert (failed.value.code, again.token_ids) == ("engine_failed", expected.token_ids)
    assert max(sizes) == before
    assert driver.engine.load().num_owned_blocks == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_unforeseen_fault_of_the_loop_is_told_as_lost(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unforeseen(BaseException):
        pass

    def fault(chunks: Sequence[Chunk], logits: torch.Tensor | None) -> None:
        raise Unforeseen

    break_runner(monkeypatch, fault)
    with pytest.raises(EngineError) as caught:
        await driver.generate(1, prompt(5), max_tokens=2)
    assert caught.value.code == "engine_lost"
    notices = [notice async for notice in driver.engine.notices()]
    assert type(notices[-1]).__name__ == "Lost"
    await driver.free(1)


@pytest.mark.parametrize("stage", ["queued", "waiting-for-parent", "prefill", "decode", "behind-another"])
async def test_a_request_cancelled_in_any_stage_leaves_nothing(
    start: StartDriver, plain_dir: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_runner(monkeypatch, lambda _chunks, _logits: time.sleep(0.001))
    driver = await start(plain_dir, max_batch=1, step_tokens=8)
    other = asyncio.create_task(driver.generate(1, prompt(8), max_tokens=60, ignore_eos=True, min_tokens=60))
    await asyncio.sleep(0.01)
    parent = (1, 100) if stage == "waiting-for-parent" else None
    context = 1 if stage == "behind-another" else 2
    if stage in {"prefill", "decode"}:
        await other
    request = driver.generate_request(
        context, prompt(3 if stage == "decode" else 150), parent, max_tokens=50, ignore_eos=True
    )
    output = driver.engine.generate(request)
    if stage == "decode":
        assert (await anext(output)).token_ids
        await output.aclose()
    else:
        task = asyncio.ensure_future(anext(output))
        await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len((await other).token_ids) == 60
    await driver.free(1, 2)
    load = driver.engine.load()
    assert (load.num_owned_blocks, load.num_running, load.num_waiting) == (0, 0, 0)
    assert driver.engine.num_leaks == 0


async def test_leaving_a_request_that_cannot_run_before_it_is_told_so_harms_nothing(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    computing, go_on = threading.Event(), threading.Event()

    def fault(chunks: Sequence[Chunk], logits: torch.Tensor | None) -> None:
        computing.set()
        go_on.wait()

    break_runner(monkeypatch, fault)
    other = asyncio.create_task(driver.generate(1, prompt(8), max_tokens=6, ignore_eos=True))
    await asyncio.to_thread(computing.wait)
    too_long = asyncio.create_task(driver.fill(2, prompt(300)))
    await asyncio.sleep(0)
    too_long.cancel()
    await asyncio.wait([too_long])
    go_on.set()
    assert len((await other).token_ids) == 6
    await driver.free(1, 2)
    assert driver.engine.load().num_owned_blocks == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_what_was_asked_while_the_loop_failed_is_told_that_the_engine_is_lost(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unforeseen(BaseException):
        pass

    computing, go_on = threading.Event(), threading.Event()

    def fault(chunks: Sequence[Chunk], logits: torch.Tensor | None) -> None:
        computing.set()
        go_on.wait()
        raise Unforeseen

    break_runner(monkeypatch, fault)
    first = asyncio.create_task(driver.fill(1, prompt(5)))
    await asyncio.to_thread(computing.wait)
    asked = [
        asyncio.create_task(driver.fill(2, prompt(5))),
        asyncio.create_task(driver.generate(3, prompt(5), max_tokens=2)),
        asyncio.create_task(driver.free(1)),
    ]
    await asyncio.sleep(0)
    go_on.set()
    done, pending = await asyncio.wait([first, *asked], timeout=5)
    for task in pending:
        task.cancel()
    assert not pending
    codes = [error.code for task in done if isinstance(error := task.exception(), EngineError)]
    assert codes == ["engine_lost"] * 3


async def test_a_higher_priority_does_not_wait_for_a_lower_one_it_forks_from(
    start: StartDriver, plain_dir: Path
) -> None:
    driver = await start(plain_dir, max_batch=1, step_tokens=8)
    ended: list[str] = []

    async def note(name: str, work: Any) -> None:
        await work
        ended.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(
            note("busy", driver.generate(1, prompt(8), max_tokens=80, ignore_eos=True, min_tokens=80))
        )
        await asyncio.sleep(0)
        group.create_task(note("prefix", driver.fill(2, prompt(40), priority=5)))
        await asyncio.sleep(0)
        group.create_task(note("urgent", driver.generate(3, [7], (2, 40), priority=-5, max_tokens=2)))
    assert ended == ["prefix", "urgent", "busy"]


async def test_the_window_ends_an_output_with_length(start: StartDriver, plain_dir: Path) -> None:
    driver = await start(plain_dir, context_tokens=32)
    result = await driver.generate(1, prompt(20), max_tokens=100, ignore_eos=True, min_tokens=100)
    assert result.end.reason == "length"
    assert (len(result.token_ids), result.end.num_tokens) == (12, 32)
    with pytest.raises(ParrotError) as caught:
        await driver.generate(2, prompt(32), max_tokens=1)
    assert caught.value.code == "context_overflow"
    assert caught.value.data["context_tokens"] == 32


async def test_a_batch_does_not_change_what_a_seed_gives(driver: Driver) -> None:
    settings: dict[str, Any] = {
        "max_tokens": 12,
        "temperature": 1.0,
        "top_p": 0.9,
        "seed": 5,
        "ignore_eos": True,
    }
    alone = await driver.generate(1, prompt(9), **settings)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(driver.generate(2, prompt(9), **settings))]
        for i in range(5):
            work = driver.generate(10 + i, prompt(4 + i, i), max_tokens=12, temperature=1.5)
            tasks.append(group.create_task(work))
    assert tasks[0].result().token_ids == alone.token_ids


async def test_outputs_without_a_seed_differ(driver: Driver) -> None:
    settings: dict[str, Any] = {"max_tokens": 12, "temperature": 2.0, "ignore_eos": True}
    first, second = [await driver.generate(i, prompt(9), **settings) for i in (1, 2)]
    assert first.token_ids != second.token_ids


@pytest.mark.parametrize("token_id", [-1, 400, 1 << 40])
async def test_ids_outside_the_vocabulary_are_refused(driver: Driver, token_id: int) -> None:
    with pytest.raises(InvalidError):
        await driver.fill(1, [token_id])
    assert (await driver.fill(1, [5])).num_tokens == 1


async def test_nothing_can_be_generated_from_an_empty_context(driver: Driver) -> None:
    with pytest.raises(InvalidError):
        await driver.generate(1, [], max_tokens=2)
    assert driver.engine.load().num_waiting == 0


async def test_a_text_begun_in_one_token_and_ended_in_another_is_cut_at_the_stop_string(
    driver: Driver,
) -> None:
    free_run = await driver.generate(1, prompt(9), max_tokens=30, ignore_eos=True)
    stop = free_run.text[4:9]
    result = await driver.generate(2, prompt(9), max_tokens=30, stop=(stop,), ignore_eos=True)
    assert result.text == free_run.text[: free_run.text.index(stop)]
    assert (result.end.reason, result.end.exact) == ("stop", False)


async def test_random_traffic_in_a_tiny_pool_ends_and_leaks_nothing(
    start: StartDriver, plain_dir: Path
) -> None:
    """Forks at random, cancels, frees, retains, with memory for a few requests only."""
    block_bytes = 2 * 2 * 2 * 16 * 4 * 4
    driver = await start(plain_dir, block_tokens=4, kv_bytes=40 * block_bytes, step_tokens=24, max_batch=6)
    random = Random(3)
    evicted: list[ContextId] = []
    outcomes: list[str] = []

    async def read() -> None:
        notice: Notice
        async for notice in driver.engine.notices():
            if isinstance(notice, Evicted):
                evicted.extend(notice.context_ids)

    async def application(number: int) -> None:
        root = number * 100
        lives = [root]
        try:
            await driver.fill(root, prompt(random.randint(6, 30), number), priority=random.randint(0, 2))
            for i in range(1, 5):
                parent = random.choice(lives)
                lives.append(root + i)
                length = random.randint(0, 20)
                work = driver.generate(
                    root + i, prompt(5, i), (parent, min(length, 6)), max_tokens=random.randint(1, 20)
                )
                async with asyncio.timeout(random.choice([0.004, 0.05, 30.0])):
                    await work
            outcomes.append("done")
        except TimeoutError:
            outcomes.append("cancelled")
        except EngineError as error:
            outcomes.append(error.code)
        random.shuffle(lives)
        for context_id in lives:
            await driver.free(context_id, retain=random.random() < 0.5)

    reader = asyncio.create_task(read())
    async with asyncio.timeout(60):
        await asyncio.gather(*(application(number) for number in range(1, 60)))
    load = driver.engine.load()
    assert load.num_owned_blocks == 0
    assert load.num_cached_blocks + load.num_free_blocks == 40
    assert load.num_preemptions > 0
    assert len(evicted) == load.num_evictions > 0
    assert len(set(evicted)) == len(evicted)
    assert {"done", "cancelled"} <= set(outcomes)
    assert driver.engine.num_leaks == 0
    await driver.engine.close()
    await reader
