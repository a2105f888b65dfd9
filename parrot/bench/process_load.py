"""What another process uses: memory and processor time, from the kernel's tables."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLoad:
    """One look at a process."""

    rss_bytes: int
    """Resident memory."""
    cpu_s: float
    """Processor time since its start, its threads' together."""


def process_load(pid: int) -> ProcessLoad | None:
    """What a process uses now; None where the kernel shows no such table or the process is gone."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])
    return ProcessLoad(
        rss_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), cpu_s=ticks / os.sysconf("SC_CLK_TCK")
    )
