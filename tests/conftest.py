"""What tests of every kind share."""

from collections.abc import Iterator

import pytest
from reliability.postgres_server import PostgresServer, missing


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A private PostgreSQL server; skips visibly where none is installed."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    pytest.importorskip("psycopg")
    server = PostgresServer()
    try:
        yield server
    finally:
        server.close()
