"""The log's database in an SQLite file, in WAL mode."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine

from parrot.errors import StoreError
from parrot.store.config import StoreConfig
from parrot.store.database import Readers, check_claim, take_claim
from parrot.store.faults import as_store_errors, damaged
from parrot.store.opening import FileLock, prepare

T = TypeVar("T")


class SqliteDatabase:
    """`Database` over one file. Made by `open_sqlite`."""

    def __init__(self, path: Path, lock: FileLock, engine: Engine, claim: int) -> None:
        self._path = path
        self._lock = lock
        self._readers = Readers(engine)
        self._writing = engine.execution_options(write=True)
        self._claim = claim

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self._path)

    def write(self, work: Callable[[Connection], T]) -> T:
        """See `Database.write`."""
        with as_store_errors(self._path), self._writing.begin() as connection:
            check_claim(connection, self._claim, self.name)
            return work(connection)

    def read(self, work: Callable[[Connection], T]) -> T:
        """See `Database.read`."""
        with as_store_errors(self._path), self._readers.begin() as connection:
            return work(connection)

    def damaged(self, finding: str) -> StoreError:
        """See `Database.damaged`."""
        return damaged(self._path, finding)

    def room(self) -> tuple[int, int] | None:
        """See `Database.room`."""
        with as_store_errors(self._path):
            told = os.statvfs(self._path)
        return told.f_bavail * told.f_frsize, told.f_blocks * told.f_frsize

    def interrupt(self) -> None:
        """See `Database.interrupt`; nothing here waits longer than `busy_timeout_s`."""

    def close(self) -> None:
        """See `Database.close`."""
        self._readers.close()
        self._lock.release()


def open_sqlite(config: StoreConfig) -> SqliteDatabase:
    """Claim, check and open the file, made when there is none; see `open_store`."""
    path = config.path.absolute()
    lock = FileLock(path)
    try:
        engine = prepare(path, config)
        try:
            with as_store_errors(path), engine.execution_options(write=True).begin() as connection:
                claim = take_claim(connection)
        except BaseException:
            engine.dispose()
            raise
    except BaseException:
        lock.release()
        raise
    return SqliteDatabase(path, lock, engine, claim)
