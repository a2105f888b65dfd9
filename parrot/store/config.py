"""The store's configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Where sessions are kept, and how safely."""

    path: Path = Path("parrot.db")
    """The SQLite file; its directory must exist. A lock file and SQLite's `-wal` and `-shm` are beside it."""
    synchronous: Literal["full", "normal"] = "full"
    """`full`: what was acknowledged survives a power cut. `normal` is faster, survives a killed process, and
    may lose the last commits when the machine loses power."""
    busy_timeout_s: float = 5.0
    """Another program that holds the file, such as a backup, is waited for so long."""
    check_on_open: bool = True
    """Read through the whole file for damage before it is used; about a second for each gigabyte."""
