"""From what SQLite reports to the error tree."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from parrot.errors import StoreError

_CODES = {
    sqlite3.SQLITE_FULL: "store_full",
    sqlite3.SQLITE_CORRUPT: "store_corrupt",
    sqlite3.SQLITE_NOTADB: "store_corrupt",
}
_PRIMARY_CODE = 0xFF

UNSAFE = frozenset({"SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC"})
"""After these the operating system may have dropped pages that it never wrote: only reading the file again
tells what is in it."""


@contextmanager
def as_store_errors(path: Path) -> Iterator[None]:
    """Raise what the database or the file system reports as a `StoreError` with its cause.

    `data["sqlite"]` is SQLite's own name of the error. Neither statements nor values are told.
    """
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error.orig, sqlite3.Error):
            raise
        raise store_error(error.orig, path) from error
    except sqlite3.Error as error:
        raise store_error(error, path) from error
    except OSError as error:
        raise StoreError(f"cannot use the store {path}: {error.strerror or error}") from error


def store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """The error for what SQLite reports of the store at `path`."""
    name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
    if name in UNSAFE:
        return StoreError(
            f"the disk of the store {path} did not keep what was written ({name}): only opening it again "
            "tells what is in it",
            code="store_unsafe",
            data={"sqlite": name},
        )
    code = _CODES.get(getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE, "store_unavailable")
    if code == "store_corrupt":
        return damaged(path, str(error))
    advice = {
        "store_full": "its disk is full; nothing was accepted, free some space",
        "store_unavailable": f"{error} ({name})",
    }[code]
    return StoreError(f"the store {path}: {advice}", code=code, data={"sqlite": name})


def damaged(path: Path, finding: str) -> StoreError:
    """The error for a file that cannot be trusted, with the way out."""
    return StoreError(
        f"the store {path} is damaged: {finding}. Put a backup in its place and take {path.name}-wal away, "
        f"or save what can be read with `sqlite3 {path} .recover`; it is not changed or replaced by itself",
        code="store_corrupt",
    )
