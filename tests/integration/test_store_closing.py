"""A store that is closed while somebody still reads from it keeps no connection."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reliability.postgres_server import PostgresServer
from sqlalchemy import Connection, text

from parrot.store import StoreConfig
from parrot.store.database import Database
from parrot.store.postgres import open_postgres
from parrot.store.sqlite import open_sqlite

LIMIT_S = 10.0


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without the collector of cycles, which would close sooner or later what nobody closed."""
    gc.disable()
    yield
    gc.enable()


def close_beneath_a_reader(database: Database) -> object:
    """Close it while a read is under way; what that read found."""
    under_way, closed, found = threading.Event(), threading.Event(), []

    def work(connection: Connection) -> object:
        under_way.set()
        closed.wait(LIMIT_S)
        return connection.execute(text("SELECT 7")).scalar_one()

    reader = threading.Thread(target=lambda: found.append(database.read(work)))
    reader.start()
    assert under_way.wait(LIMIT_S)
    database.close()
    closed.set()
    reader.join(LIMIT_S)
    return found[0]


def until_none(num_connections: Callable[[], int]) -> int:
    """How many connections are left, at the latest after a second."""
    ends_at = time.monotonic() + 1.0
    while (num := num_connections()) and time.monotonic() < ends_at:
        time.sleep(0.01)
    return num


@pytest.mark.usefixtures("no_collector")
def test_a_file_that_is_closed_beneath_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "parrot.db"

    def num_connections() -> int:
        files = Path("/proc/self/fd")
        if not files.exists():
            pytest.skip("open files are counted in /proc, which is not here")
        return sum(str(path) == str(file.readlink()) for file in list(files.iterdir()) if file.is_symlink())

    database = open_sqlite(StoreConfig(path=path))
    assert num_connections() > 0
    assert close_beneath_a_reader(database) == 7
    assert until_none(num_connections) == 0


@pytest.mark.usefixtures("no_collector")
def test_a_server_that_is_closed_beneath_a_reader(postgres: PostgresServer) -> None:
    url = postgres.url()
    everybody = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'Parrot%'"
    others = set(postgres.execute(everybody))

    def num_connections() -> int:
        return len(set(postgres.execute(everybody)) - others)

    database = open_postgres(StoreConfig(url=url))
    assert num_connections() == 1
    assert close_beneath_a_reader(database) == 7
    assert until_none(num_connections) == 0
