"""Whether an engine's process ended by what it worked on, or because somebody else stopped or killed it.

A call is suspected of having brought an engine down unless there is proof that it was not: a process that is
stopped, one that was told to go by a signal that programs do not send themselves, one that was killed while
the kernel has not killed anything for want of memory. Where the proof cannot be had, there is none.
"""

import signal
from pathlib import Path

_ASKED_TO_GO = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
_STOPPED_STATES = frozenset("Tt")
_PROC = Path("/proc")


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal or held by a debugger. False where that cannot be seen."""
    try:
        told = (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return told.rpartition(")")[2].lstrip()[:1] in _STOPPED_STATES


def count_oom_kills() -> int | None:
    """How many processes this machine's kernel has killed for want of memory; None when it does not say."""
    try:
        lines = (_PROC / "vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(counts[0]) if counts else None


def was_killed_by_others(status: int, *, oom_kills_before: int | None) -> bool:
    """Whether an exit status (negative: a signal's number) proves that somebody else ended the process.

    `oom_kills_before` is what `count_oom_kills` said when the process was started.
    """
    if status == -signal.SIGKILL:
        return oom_kills_before is not None and count_oom_kills() == oom_kills_before
    # A worker that is told to go ends in order, and for no other reason.
    return status == 0 or -status in _ASKED_TO_GO
