"""An event loop that is held up is told of, with the place that holds it up."""

import asyncio
import logging
import time

import pytest

from parrot.server import watchdog
from parrot.server.watchdog import watched_loop


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "INTERVAL_S", 0.05)


def hold_up(prompt: str, seconds: float) -> None:
    """Work that should have been done elsewhere."""
    del prompt
    time.sleep(seconds)


async def test_the_stack_of_what_holds_the_loop_up_is_logged_once_and_its_end_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "a prompt of somebody"
    with caplog.at_level(logging.WARNING), watched_loop(late_s=0.3):
        await asyncio.sleep(0.2)
        hold_up(secret, 1.5)
        await asyncio.sleep(0.3)
    told = [record.getMessage() for record in caplog.records if record.name == watchdog.__name__]
    assert len(told) == 2
    assert "stands still for 0.3 s" in told[0]
    assert "in hold_up" in told[0]
    assert secret not in "".join(told)
    assert "goes on after" in told[1]


async def test_a_loop_that_moves_is_not_told_of_and_the_thread_ends(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), watched_loop(late_s=2.0):
        await asyncio.sleep(0.5)
    assert not [record for record in caplog.records if record.name == watchdog.__name__]


async def test_it_can_be_ended_while_the_loop_is_held_up(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), watched_loop(late_s=0.1):
        await asyncio.sleep(0.1)
        time.sleep(0.6)
    assert any("stands still" in record.getMessage() for record in caplog.records)


async def test_it_ends_whenever_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "INTERVAL_S", 0.001)
    began_s = time.monotonic()
    for number in range(200):
        with watched_loop(late_s=30.0):
            time.sleep(number % 5 / 1000)
    assert time.monotonic() - began_s < 20
