"""How an engine's process ended: what proves that nothing it worked on did it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from parrot.engine.endings import count_oom_kills, is_stopped, was_killed_by_others

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


def test_a_process_that_was_stopped_is_seen_to_be(sleeper: subprocess.Popen[bytes]) -> None:
    assert not is_stopped(sleeper.pid)
    sleeper.send_signal(signal.SIGSTOP)
    _, status = os.waitpid(sleeper.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert is_stopped(sleeper.pid)


def test_a_process_that_is_gone_is_not_stopped(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait(20)
    assert not is_stopped(sleeper.pid)


@pytest.mark.parametrize("status", [0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP])
def test_who_was_told_to_go_was_told_by_somebody_else(status: int) -> None:
    assert was_killed_by_others(status, oom_kills_before=None)


@pytest.mark.parametrize("status", [1, 9, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS])
def test_who_ended_by_itself_proves_nothing(status: int) -> None:
    assert not was_killed_by_others(status, oom_kills_before=count_oom_kills())


def test_a_kill_is_somebody_elses_only_while_the_kernel_killed_nobody_for_memory() -> None:
    now = count_oom_kills()
    assert not was_killed_by_others(-signal.SIGKILL, oom_kills_before=None)
    if now is not None:
        assert was_killed_by_others(-signal.SIGKILL, oom_kills_before=now)
        assert not was_killed_by_others(-signal.SIGKILL, oom_kills_before=now - 1)


def test_a_kernel_that_says_nothing_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parrot.engine.endings._PROC", tmp_path)
    assert count_oom_kills() is None
    (tmp_path / "vmstat").write_text("pgfault 3\noom_kill 7\n")
    assert count_oom_kills() == 7
