"""The log's database on a PostgreSQL server, version 13 or later.

Who writes holds an advisory lock on the connection that it writes with. A connection can be lost, and with
it the lock: so whoever opens the store also counts the claim up, and a transaction whose claim is old is
refused.

When the connection breaks in the middle of a COMMIT, only the server knows what became of it. It is asked by
the transaction's number, for as long as it takes until it answers: nothing is told before that, and nothing
is written twice.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool

from parrot.errors import ConfigError, StoreError
from parrot.store.config import StoreConfig
from parrot.store.database import Readers, check_claim, migrate, take_claim, upgrade
from parrot.store.schema import APPLICATION_ID, METADATA

SCHEMES = ("postgresql", "postgresql+asyncpg", "postgresql+psycopg")
DRIVER = "postgresql+psycopg"
"""The driver that blocks, for threads; whatever the address says."""
MASK = "***"
NUM_READERS = 5
ASK_INTERVAL_S = 0.5
"""Between two tries to learn what became of a commit."""
LOCK_TRIES_S = 0.1
IN_THE_WAY = frozenset({"40001", "40P01"})
"""Serialization failure and deadlock: nothing of the transaction is stored, and made again it may go in."""
NUM_TRIES = 3
TRY_AGAIN_S = 0.05
"""Without chance: there is one who writes, so no two who try again can meet again."""
KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""A server that is gone without a word is given up after 15 to 25 s."""

_CODES = {"53100": "store_full", "XX001": "store_corrupt", "XX002": "store_corrupt"}
_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key, hashtext(current_schema()))")
_STATUS = text("SELECT pg_xact_status(CAST(:number AS xid8))")
_HOLDER = text(
    "SELECT application_name, host(client_addr) AS host FROM pg_locks JOIN pg_stat_activity USING (pid) "
    "WHERE locktype = 'advisory' AND CAST(classid AS bigint) = :key AND granted LIMIT 1"
)

T = TypeVar("T")

logger = logging.getLogger(__name__)


class PostgresDatabase:
    """`Database` over one schema of a PostgreSQL database. Made by `open_postgres`."""

    def __init__(self, url: URL, config: StoreConfig) -> None:
        self._secrets = _secrets(url)
        self._name = (
            f"postgresql://{url.host or 'localhost'}{f':{url.port}' if url.port else ''}/{url.database or ''}"
        )
        self._timeout_s = config.busy_timeout_s
        self._readers = Readers(
            _engine(
                url, config, pool_size=NUM_READERS, pool_timeout=config.busy_timeout_s, pool_pre_ping=True
            )
        )
        self._writers = _engine(url, config, poolclass=NullPool, statement_timeout_s=config.busy_timeout_s)
        self._connection: Connection | None = None
        self._claim: int | None = None
        self._given_up = threading.Event()

    @property
    def name(self) -> str:
        """The server and the database."""
        return self._name

    def claim(self) -> None:
        """Make the tables or bring them to this version's schema, and become the one who writes."""
        with self._as_store_errors():
            connection = self._writer()
            with connection.begin():
                self._check_encoding(connection)
                tables = set(inspect(connection).get_table_names())
                if "alembic_version" not in tables:
                    foreign = sorted(tables & set(METADATA.tables))
                    if foreign:
                        raise self.damaged(f"another program's tables are there ({', '.join(foreign)})")
                    upgrade(connection)
                else:
                    migrate(connection, self._name)
                claim = take_claim(connection)
            self._claim = claim

    def write(self, work: Callable[[Connection], T]) -> T:
        """See `Database.write`. What others in the database are in the way of is tried a few times."""
        with self._as_store_errors():
            for _ in range(NUM_TRIES - 1):
                try:
                    return self._write_once(work)
                except DBAPIError as error:
                    if getattr(error.orig, "sqlstate", None) not in IN_THE_WAY:
                        raise
                self._given_up.wait(TRY_AGAIN_S)
            return self._write_once(work)

    def _write_once(self, work: Callable[[Connection], T]) -> T:
        connection = self._writer()
        transaction = connection.begin()
        try:
            check_claim(connection, self._claim or 0, self._name)
            number = int(connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one())
            result = work(connection)
        except BaseException:
            self._drop_if_broken(connection)
            if self._connection is not None:
                transaction.rollback()
            raise
        try:
            transaction.commit()
        except DBAPIError as error:
            self._drop_if_broken(connection)
            if self._connection is not None or not self._was_committed(number):
                raise
            logger.warning("the store %s had committed before its connection broke: %s", self._name, error)
        return result

    def read(self, work: Callable[[Connection], T]) -> T:
        """See `Database.read`."""
        with self._as_store_errors(), self._readers.begin() as connection:
            return work(connection)

    def damaged(self, finding: str) -> StoreError:
        """See `Database.damaged`."""
        return StoreError(
            f"the store {self._name} cannot be used: {finding}. Restore a backup into it, or name an empty "
            "database or schema; it is not changed or replaced by itself",
            code="store_corrupt",
        )

    def room(self) -> tuple[int, int] | None:
        """See `Database.room`: the server does not tell."""
        return None

    def interrupt(self) -> None:
        """See `Database.interrupt`."""
        self._given_up.set()

    def close(self) -> None:
        """See `Database.close`."""
        if self._connection is not None:
            self._connection.close()
        self._readers.close()

    def _writer(self) -> Connection:
        """The connection that holds the lock, made again when it was lost."""
        if self._connection is None:
            connection = self._writers.connect()
            try:
                self._lock(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _lock(self, connection: Connection) -> None:
        """Take the lock. A server learns late that its client is gone, so this is tried for a while."""
        key = {"key": APPLICATION_ID}
        for _ in range(max(1, round(self._timeout_s / LOCK_TRIES_S))):
            with connection.begin():
                if connection.execute(_TRY_LOCK, key).scalar_one():
                    return
                holder = connection.execute(_HOLDER, key).one_or_none()
            self._given_up.wait(LOCK_TRIES_S)
        by = (
            "another service"
            if holder is None
            else f"{holder.application_name} at {holder.host or 'this host'}"
        )
        raise StoreError(f"the store {self._name} is in use by {by}", code="store_locked")

    def _was_committed(self, number: int) -> bool:
        """What became of a transaction whose COMMIT was not answered."""
        logger.warning("the store %s did not answer a commit; asking what became of it", self._name)
        while not self._given_up.wait(ASK_INTERVAL_S):
            try:
                with self._writers.connect() as connection:
                    status = connection.execute(_STATUS, {"number": str(number)}).scalar_one()
            except DBAPIError:
                continue
            if status == "committed":
                return True
            if status == "aborted":
                return False
            if status is None:
                break
        raise StoreError(
            f"the store {self._name} did not tell what became of a commit; opening it again will",
            code="store_unsafe",
        )

    def _drop_if_broken(self, connection: Connection) -> None:
        if connection.invalidated or connection.closed:
            self._connection = None
            connection.close()

    def _check_encoding(self, connection: Connection) -> None:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise StoreError(f"the store {self._name} has the encoding {encoding}; it must be UTF8")

    @contextmanager
    def _as_store_errors(self) -> Iterator[None]:
        """Raise what the driver reports as a `StoreError`. Statements, values and secrets are not told."""
        try:
            yield
        except DBAPIError as error:
            raise self._store_error(error.orig) from None
        except PoolTimeoutError:
            raise StoreError(f"the store {self._name} did not answer within {self._timeout_s:g} s") from None

    def _store_error(self, error: Any) -> StoreError:
        diagnosis = getattr(error, "diag", None)
        told = (
            (diagnosis.message_primary if diagnosis else None) or str(error).partition("\n")[0] or "no answer"
        )
        for secret in self._secrets:
            told = told.replace(secret, MASK)
        sqlstate = getattr(error, "sqlstate", None)
        code = _CODES.get(sqlstate or "", "store_unavailable")
        if code == "store_corrupt":
            return self.damaged(told)
        return StoreError(f"the store {self._name}: {told}", code=code, data={"sqlstate": sqlstate})


def open_postgres(config: StoreConfig) -> PostgresDatabase:
    """Claim the database at `config.url`, its tables made when there are none; see `open_store`."""
    database = PostgresDatabase(_address(config.url), config)
    try:
        database.claim()
    except BaseException:
        database.close()
        raise
    return database


def _address(text_url: str) -> URL:
    """The address with the driver that is used here."""
    try:
        url = make_url(text_url)
    except (ArgumentError, ValueError):
        raise ConfigError("store.url is not the address of a database", param="store.url") from None
    if url.drivername not in SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigError(
            f"store.url begins with {url.drivername}://, and {schemes} are known", param="store.url"
        )
    if find_spec("psycopg") is None:
        raise ConfigError(
            'PostgreSQL needs psycopg, which is not installed: pip install "parrot-llm[postgres]"',
            code="missing_extra",
            param="store.url",
        )
    return url.set(drivername=DRIVER)


def _secrets(url: URL) -> tuple[str, ...]:
    """What must not be told: the password, wherever it stands in the address, and as it is written there."""
    given = [url.password, *(url.normalized_query.get("password", ()))]
    written = (
        url.render_as_string(hide_password=False).partition("//")[2].rpartition("@")[0].partition(":")[2]
    )
    return tuple(secret for secret in [*given, written] if secret)


def _engine(url: URL, config: StoreConfig, *, statement_timeout_s: float = 0.0, **options: Any) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,
        connect_args={
            "connect_timeout": max(1, round(config.busy_timeout_s)),
            "application_name": f"Parrot process {os.getpid()}",
            "client_encoding": "utf8",
            **KEEPALIVE,
        },
        **options,
    )
    session = {
        "synchronous_commit": "on" if config.synchronous == "full" else "off",
        "statement_timeout": f"{round(statement_timeout_s * 1000)}ms",
        "lock_timeout": f"{round(config.busy_timeout_s * 1000)}ms",
    }

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            for name, value in session.items():
                cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
        connection.commit()

    return engine
