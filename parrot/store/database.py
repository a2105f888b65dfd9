"""What the log needs of a database, and what is alike in all of them: the schema's versions, the claim."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import Connection, Engine, text

from parrot.errors import StoreError
from parrot.store.schema import HEAD

MIGRATIONS = Path(__file__).parent / "migrations"

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Database(Protocol):
    """One database that this process has claimed. Its methods block; `write` is for one thread at a time."""

    @property
    def name(self) -> str:
        """What people call it; no secret is in it."""
        ...

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction, which is committed when this returns. It is run again, in another
        transaction, when the first was undone.

        Raises:
            StoreError: nothing of it is stored, or, with `store_unsafe`, nobody knows.
        """
        ...

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that changes nothing, beside others."""
        ...

    def damaged(self, finding: str) -> StoreError:
        """The error for content that cannot be trusted, with the way out."""
        ...

    def room(self) -> tuple[int, int] | None:
        """Free bytes and all bytes of the file system it is on; None when that cannot be known."""
        ...

    def interrupt(self) -> None:
        """Have a `write` that waits for its database give up. Thread-safe."""
        ...

    def close(self) -> None:
        """Let go of the database and of the claim."""
        ...


class Readers:
    """The connections that are read with. They close with it: one that is in use by then, by a reader whose
    answer nobody waits for any more, as soon as it is not.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._closed = False

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction for one thread."""
        try:
            with self._engine.begin() as connection:
                yield connection
        finally:
            if self._closed:
                self._engine.pool.dispose()

    def close(self) -> None:
        """Does not wait for readers."""
        self._closed = True
        self._engine.pool.dispose()


def migrate(connection: Connection, name: str) -> None:
    """Bring a store's tables to this version's schema, within the connection's transaction.

    Raises:
        StoreError: `store_newer`.
    """
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    if revision == HEAD:
        return
    if revision not in _known_revisions():
        raise StoreError(
            f"the store {name} was written by a newer version of Parrot (schema {revision}, this one knows "
            f"{HEAD}); use that version",
            code="store_newer",
        )
    logger.info("bringing the store %s from schema %s to %s", name, revision, HEAD)
    upgrade(connection)


def upgrade(connection: Connection) -> None:
    """Run all migrations that were not run yet, within the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def take_claim(connection: Connection) -> int:
    """Become the one who writes: every earlier claim is void. Returns its number."""
    connection.execute(text("UPDATE claim SET number = number + 1"))
    return int(connection.execute(text("SELECT number FROM claim")).scalar_one())


def check_claim(connection: Connection, number: int, name: str) -> None:
    """Refuse to write to a store that somebody else has claimed meanwhile; the lock alone can be lost.

    Raises:
        StoreError: `store_unsafe`.
    """
    if connection.exec_driver_sql("SELECT number FROM claim").scalar_one() != number:
        raise StoreError(
            f"another service has taken over the store {name}; this one writes to it no more",
            code="store_unsafe",
        )


def _known_revisions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory(MIGRATIONS).walk_revisions()}
