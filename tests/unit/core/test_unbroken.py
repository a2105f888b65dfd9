"""Work that goes on when whoever asked for it leaves."""

import asyncio

import pytest

from parrot.core.executor.unbroken import Unbroken


async def at_once(value: int) -> int:
    """Never waits."""
    return value


class Commit:
    """A store that is answered for by hand."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.steps: list[str] = []

    async def work(self) -> str:
        """Waits for the store, then changes memory, in two steps."""
        self.steps.append("began")
        answer = await self.answer
        self.steps.append(answer)
        await asyncio.sleep(0)
        self.steps.append("applied")
        return answer


async def test_work_that_never_waits_needs_no_task() -> None:
    before = asyncio.all_tasks()
    assert await Unbroken().run(at_once(3)) == 3
    assert asyncio.all_tasks() == before


async def test_work_that_waits_gives_its_result() -> None:
    commit = Commit()
    running = asyncio.create_task(Unbroken().run(commit.work()))
    await asyncio.sleep(0)
    commit.answer.set_result("stored")
    assert await running == "stored"
    assert commit.steps == ["began", "stored", "applied"]


async def test_an_error_reaches_who_asked() -> None:
    commit = Commit()
    running = asyncio.create_task(Unbroken().run(commit.work()))
    await asyncio.sleep(0)
    commit.answer.set_exception(OSError("the disk is full"))
    with pytest.raises(OSError, match="disk is full"):
        await running


async def test_work_goes_on_when_who_asked_is_cancelled() -> None:
    unbroken, commit = Unbroken(), Commit()
    running = asyncio.create_task(unbroken.run(commit.work()))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not commit.answer.cancelled()
    commit.answer.set_result("stored")
    await unbroken.join()
    assert commit.steps == ["began", "stored", "applied"]


async def test_what_was_answered_before_the_cancel_is_not_lost() -> None:
    unbroken, commit = Unbroken(), Commit()
    running = asyncio.create_task(unbroken.run(commit.work()))
    await asyncio.sleep(0)
    commit.answer.set_result("stored")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await unbroken.join()
    assert commit.steps == ["began", "stored", "applied"]


async def test_joining_waits_for_what_was_left_only() -> None:
    unbroken, commit = Unbroken(), Commit()
    running = asyncio.create_task(unbroken.run(commit.work()))
    await asyncio.sleep(0)
    await unbroken.join()
    assert not running.done()
    commit.answer.set_result("stored")
    assert await running == "stored"


async def test_one_after_the_other_where_work_takes_a_lock() -> None:
    unbroken, lock, order = Unbroken(), asyncio.Lock(), list[int]()

    async def work(number: int) -> None:
        async with lock:
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    running = [asyncio.create_task(unbroken.run(work(number))) for number in range(3)]
    await asyncio.sleep(0)
    running[1].cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await unbroken.join()
    assert order == [0, 0, 1, 1, 2, 2]
