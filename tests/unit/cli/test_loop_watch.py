"""An event loop that stands still is told, and watching it holds nothing up."""

import asyncio
import logging
import time

import pytest

from parrot.cli import loop_watch
from parrot.cli.loop_watch import watched_loop


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watch, "BEAT_S", 0.01)
    monkeypatch.setattr(loop_watch, "LATE_S", 0.05)


def stand_still() -> None:
    time.sleep(0.3)


async def test_each_standstill_is_told_once_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    with watched_loop():
        for _ in range(2):
            stand_still()
            await asyncio.sleep(0.1)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert caplog.text.count("in stand_still") == 2


async def test_a_loop_that_goes_on_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with watched_loop():
        await asyncio.sleep(0.3)
    assert not caplog.records


async def test_a_standstill_at_the_very_end_holds_nothing_up() -> None:
    with watched_loop():
        await asyncio.sleep(0.05)
        stand_still()
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 1
