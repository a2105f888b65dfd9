"""Before the first append: the file is claimed, made or checked, and brought to this version's schema.

A new store is built under another name and moved to its place when it is complete. So a file that stands
there was a whole store once, and an empty or strange one means damage: it is refused, never started afresh.
"""

import fcntl
import os
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection

from parrot.errors import StoreError
from parrot.store.config import StoreConfig
from parrot.store.database import migrate, upgrade
from parrot.store.faults import as_store_errors, damaged
from parrot.store.schema import APPLICATION_ID

PRIVATE = 0o600
"""Prompts and answers are for the service's own user to read."""


class FileLock:
    """The claim on a store: a lock that ends with the process, on a file beside the store."""

    def __init__(self, path: Path) -> None:
        """Claim the store at `path`; raises `StoreError` (`store_locked`, or `store_unavailable`)."""
        if not path.parent.is_dir():
            raise StoreError(f"cannot open the store {path}: there is no directory {path.parent}")
        with as_store_errors(path):
            self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._file, 32).decode(errors="replace").strip()
            self.release()
            if not isinstance(error, BlockingIOError):
                raise StoreError(f"cannot lock the store {path}: {error.strerror}") from error
            pid = int(holder) if holder.isdecimal() else None
            by = "another process" if pid is None else f"process {pid}"
            raise StoreError(
                f"the store {path} is in use by {by}", code="store_locked", data={"pid": pid}
            ) from None
        with suppress(OSError):
            os.truncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the claim up. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def connect(path: Path, config: StoreConfig) -> Engine:
    """An engine for a file that exists.

    A transaction of a connection with the option `write` holds the write lock from its beginning, so that
    what it reads stays true until it commits.
    """
    url = URL.create("sqlite", database=path.absolute().as_uri(), query={"mode": "rw", "uri": "true"})
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": config.busy_timeout_s})

    @event.listens_for(engine, "connect")
    def _prepare(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA synchronous={config.synchronous}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def prepare(path: Path, config: StoreConfig) -> Engine:
    """The store at `path`, made when there is none, checked otherwise, at this version's schema.

    Raises:
        StoreError: as `open_store`, but for `store_locked`.
    """
    with as_store_errors(path):
        if path.exists():
            _check_file(path)
        elif Path(f"{path}-wal").exists():
            raise damaged(path, "the file is gone, though its -wal file is there")
        else:
            _create(path, config)
        engine = connect(path, config)
        try:
            _check_content(engine, path, config)
            with engine.execution_options(write=True).begin() as connection:
                migrate(connection, str(path))
            with closing(engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA journal_mode=WAL")
        except BaseException:
            engine.dispose()
            raise
    return engine


def _create(path: Path, config: StoreConfig) -> None:
    new = path.with_name(f".{path.name}.new")
    for leftover in (new, Path(f"{new}-journal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, PRIVATE))
    engine = connect(new, config)
    try:
        with engine.execution_options(write=True).begin() as connection:
            connection.execute(text(f"PRAGMA application_id={APPLICATION_ID}"))
            upgrade(connection)
    finally:
        engine.dispose()
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise StoreError(f"cannot use the store {path}: it is not a file")
    if path.stat().st_size == 0:
        raise damaged(path, "the file is empty")


def _check_content(engine: Engine, path: Path, config: StoreConfig) -> None:
    with engine.connect() as connection:
        mark = connection.execute(text("PRAGMA application_id")).scalar_one()
        if mark != APPLICATION_ID:
            raise damaged(path, "it is not a store of Parrot")
        if config.check_on_open:
            finding = connection.execute(text("PRAGMA quick_check(1)")).scalar_one()
            if finding != "ok":
                raise damaged(path, str(finding).replace("\n", " "))
