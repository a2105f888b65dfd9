"""The store's configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Where sessions are kept, and how safely."""

    path: Path = Path("parrot.db")
    """The SQLite file; its directory must exist. A lock file and SQLite's `-wal` and `-shm` are beside it."""
    url: str = ""
    """A PostgreSQL database, `postgresql+asyncpg://USER:PASSWORD@HOST/NAME`, to be used in place of a file.
    It has UTF-8 encoding, and this user may create tables in it."""
    synchronous: Literal["full", "normal"] = "full"
    """`full`: what was acknowledged survives a power cut. `normal` is faster, survives a killed process, and
    may lose the last commits when the machine (for PostgreSQL, the server) goes down."""
    busy_timeout_s: float = 5.0
    """Another program that holds the file, such as a backup, is waited for so long; a PostgreSQL server for
    its answer to a connection or a statement."""
    check_on_open: bool = True
    """Read through the whole file for damage before it is used; about a second for each gigabyte. PostgreSQL
    checks its own files."""
