import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot.sim.loop import EPOCH_S, StalledError, VirtualClock, VirtualLoop, run_virtual


def test_a_day_of_sleep_takes_no_time() -> None:
    async def main(loop: VirtualLoop) -> tuple[float, float]:
        clock = VirtualClock(loop)
        await clock.sleep(86_400)
        return clock.now_s(), clock.wall_s()

    began = time.monotonic()
    assert run_virtual(main) == (86_400, EPOCH_S + 86_400)
    assert time.monotonic() - began < 5


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_timers_fire_in_order_of_time_and_alike_in_every_run(delays: list[float]) -> None:
    async def main(loop: VirtualLoop) -> list[tuple[float, int]]:
        fired: list[tuple[float, int]] = []

        async def wait(number: int, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            fired.append((loop.time(), number))

        async with asyncio.TaskGroup() as group:
            for number, delay_s in enumerate(delays):
                group.create_task(wait(number, delay_s))
        return fired

    fired = run_virtual(main)
    assert fired == run_virtual(main)
    assert [now_s for now_s, _ in fired] == sorted(now_s for now_s, _ in fired)
    assert all(abs(now_s - delays[number]) <= 1e-6 for now_s, number in fired)


def test_timers_of_one_instant_fire_in_the_order_in_which_they_were_asked_for() -> None:
    async def main(loop: VirtualLoop) -> list[int]:
        fired: list[int] = []
        for number in range(20):
            loop.call_at(5.0, fired.append, number)
        await asyncio.sleep(6)
        return fired

    assert run_virtual(main) == list(range(20))


def test_cancelled_timers_are_forgotten() -> None:
    async def main(loop: VirtualLoop) -> tuple[int, float]:
        for _ in range(1000):
            loop.call_later(1e6, print).cancel()
        await asyncio.sleep(1)
        return len(loop._timers), loop.time()

    num_left, now_s = run_virtual(main)
    assert num_left < 200
    assert now_s == 1.0


def test_an_error_in_a_callback_is_told_and_the_loop_goes_on() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        told: list[str] = []
        loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
        loop.call_soon(int, "seven")
        await asyncio.sleep(1)
        return told

    (text,) = run_virtual(main)
    assert "seven" in text


def test_a_timeout_is_virtual() -> None:
    async def main(loop: VirtualLoop) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        return loop.time()

    assert run_virtual(main) == pytest.approx(3600)


def test_waiting_for_what_cannot_happen_is_an_error() -> None:
    async def main(_: VirtualLoop) -> None:
        await asyncio.Event().wait()

    with pytest.raises(StalledError):
        run_virtual(main)


def test_threads_are_replaced_by_calls_on_the_spot() -> None:
    async def main(loop: VirtualLoop) -> tuple[int, float]:
        return await asyncio.to_thread(lambda: 7), loop.time()

    assert run_virtual(main) == (7, 0.0)


def test_an_error_in_a_call_on_the_spot_reaches_its_caller() -> None:
    async def main(_: VirtualLoop) -> None:
        await asyncio.to_thread(int, "seven")

    with pytest.raises(ValueError, match="seven"):
        run_virtual(main)
