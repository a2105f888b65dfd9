"""The logs of the commands that serve."""

import asyncio
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from parrot.cli.logs import configure_logs, log_fault


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("parrot")
    before = (root.handlers, root.level, ours.level)
    hook = sys.excepthook
    yield
    sys.excepthook = hook
    root.handlers = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    structlog.reset_defaults()


def test_a_line_has_time_level_logger_and_event_first(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info")
    logging.getLogger("parrot.core").warning("engine %s was lost", "main")
    structlog.get_logger("parrot.server").info("request", status=200)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("timestamp=")
    assert 'level=warning logger=parrot.core event="engine main was lost"' in first
    assert "level=info logger=parrot.server event=request status=200" in second


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("warning")
    logging.getLogger("parrot.core").info("quiet")
    logging.getLogger("other").info("quiet")
    assert capsys.readouterr().err == ""


def test_an_exception_is_logged_without_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("debug")
    secret = "canary"
    try:
        raise KeyError(secret)
    except KeyError:
        logging.getLogger("parrot.core").exception("a fault")
        structlog.get_logger("parrot.server").error("another", exc_info=True)
    written = capsys.readouterr().err
    assert written.count("KeyError") >= 2
    assert written.count("test_command_logs.py") == 2
    assert "canary" not in written


async def test_what_nobody_awaited_is_logged_without_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("debug")
    secret = "canary"
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_fault)
    loop.call_exception_handler(
        {"message": "Task exception was never retrieved", "exception": KeyError(secret)}
    )
    written = capsys.readouterr().err
    assert "never retrieved" in written
    assert "KeyError" in written
    assert "canary" not in written
