"""What only a server can do to a store: go away, break in the middle of a commit, be taken by another."""

import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from reliability.postgres_server import PASSWORD, PostgresServer, missing
from store_events import OPENED, value_set

from parrot.errors import ConfigError, StoreError
from parrot.store import StoreConfig, open_store
from parrot.store.schema import HEAD, METADATA
from parrot.types.events import Event


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that tests of this module may stop."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    server = PostgresServer()
    try:
        yield server
    finally:
        server.close()


def config(url: str) -> StoreConfig:
    return StoreConfig(url=url, busy_timeout_s=1.0)


async def events_in(url: str) -> list[Event]:
    store = await open_store(config(url))
    log = await store.load_session(OPENED.session_id)
    await store.close()
    return [item.event for item in log]


class Proxy:
    """Stands between a store and its server, and cuts the connection at a COMMIT when told to."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.cut: str | None = None
        """`before`: the server does not get the next COMMIT; `after`: it does, and nobody learns it."""
        self.num_cuts = 0

    async def handle(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        back = asyncio.create_task(self._copy(server, to_client))
        try:
            while data := await client.read(65536):
                if b"COMMIT" in data and self.cut is not None:
                    cut, self.cut = self.cut, None
                    self.num_cuts += 1
                    back.cancel()
                    if cut == "after":
                        to_server.write(data)
                        await server.read(1)
                    return
                to_server.write(data)
                await to_server.drain()
        except ConnectionError:
            return
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            for writer in (to_client, to_server):
                writer.close()

    async def _copy(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while data := await server.read(65536):
            to_client.write(data)
            await to_client.drain()


@asynccontextmanager
async def proxied(url: str, port: int) -> AsyncIterator[tuple[Proxy, str]]:
    proxy = Proxy(port)
    listener = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    try:
        proxy_port = listener.sockets[0].getsockname()[1]
        yield proxy, url.replace(f":{port}/", f":{proxy_port}/")
    finally:
        listener.close()


async def test_a_commit_whose_answer_is_lost_is_known_to_be_in(postgres: PostgresServer) -> None:
    url = postgres.url()
    async with proxied(url, postgres.port) as (proxy, through):
        store = await open_store(config(through))
        proxy.cut = "after"
        outcome = await store.append([OPENED, value_set("one")])
        again = await store.append([value_set("two")])
        await store.close()
    assert proxy.num_cuts == 1
    assert [item.seq for item in (*outcome.appended, *again.appended)] == [1, 2, 3]
    assert await events_in(url) == [OPENED, value_set("one"), value_set("two")]


async def test_a_commit_that_never_arrived_is_known_not_to_be_in(postgres: PostgresServer) -> None:
    url = postgres.url()
    async with proxied(url, postgres.port) as (proxy, through):
        store = await open_store(config(through))
        proxy.cut = "before"
        with pytest.raises(StoreError) as caught:
            await store.append([OPENED, value_set("one")])
        await store.append([OPENED, value_set("two")])
        await store.close()
    assert (proxy.num_cuts, caught.value.code) == (1, "store_unavailable")
    assert await events_in(url) == [OPENED, value_set("two")]


async def test_a_server_that_crashes_is_refused_work_for_and_then_used_again(
    own_server: PostgresServer,
) -> None:
    url = own_server.url()
    store = await open_store(config(url))
    await store.append([OPENED])
    await asyncio.to_thread(own_server.stop)
    with pytest.raises(StoreError) as caught:
        await store.append([value_set("lost")])
    with pytest.raises(StoreError):
        await store.load_session(OPENED.session_id)
    await asyncio.to_thread(own_server.start)
    await store.append([value_set("kept")])
    log = [item.event for item in await store.load_session(OPENED.session_id)]
    await store.close()
    assert caught.value.code == "store_unavailable"
    assert log == [OPENED, value_set("kept")]


async def test_closing_does_not_wait_for_a_server_that_stays_away(own_server: PostgresServer) -> None:
    url = own_server.url()
    async with proxied(url, own_server.port) as (proxy, through):
        store = await open_store(config(through))
        proxy.cut = "before"
        appending = asyncio.create_task(store.append([OPENED]))
        while not proxy.num_cuts:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(own_server.stop)
        try:
            async with asyncio.timeout(10):
                await store.close()
            with pytest.raises(StoreError) as caught:
                await appending
        finally:
            await asyncio.to_thread(own_server.start)
    assert caught.value.code == "store_unsafe"


async def test_a_second_service_is_refused_and_told_who_has_it(postgres: PostgresServer) -> None:
    url = postgres.url()
    store = await open_store(config(url))
    with pytest.raises(StoreError) as caught:
        await open_store(config(url))
    await store.close()
    assert caught.value.code == "store_locked"
    assert "Parrot process" in caught.value.message
    assert await events_in(url) == []


async def test_who_lost_the_claim_while_away_writes_no_more(postgres: PostgresServer) -> None:
    url = postgres.url()
    first = await open_store(config(url))
    await first.append([OPENED])
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    second = await open_store(config(url))
    await second.append([value_set("second")])
    await second.close()
    codes: list[str] = []
    for _ in range(3):
        with pytest.raises(StoreError) as caught:
            await first.append([value_set("first")])
        codes.append(caught.value.code)
    await first.close()
    assert codes[-2:] == ["store_unsafe"] * 2
    assert await events_in(url) == [OPENED, value_set("second")]


async def test_row_135_no_message_tells_the_password(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    good = postgres.url()
    wrong = [
        good.replace(PASSWORD, "hunter2%40x"),
        good.replace(f"127.0.0.1:{postgres.port}", "127.0.0.1:1"),
        good.replace("/postgres?", "/nowhere?"),
        good.replace("postgresql+asyncpg", "mysql"),
        good.replace("postgresql+asyncpg://", "postgresql//"),
        good + "&nonsense=1",
    ]
    told = caplog.text
    for url in wrong:
        with pytest.raises((StoreError, ConfigError)) as caught:
            await open_store(config(url))
        told += f"{caught.value} {caught.value!r} {caught.value.data} {caught.value.__cause__}"
    assert PASSWORD not in told + caplog.text
    assert "hunter2" not in told + caplog.text


async def test_a_store_of_the_first_schema_is_brought_to_this_one(postgres: PostgresServer) -> None:
    url = postgres.url()
    store = await open_store(config(url))
    await store.append([OPENED])
    await store.close()
    schema = url.rpartition("%3D")[2]
    postgres.execute(f"ALTER TABLE {schema}.sessions DROP COLUMN tenant_id, DROP COLUMN num_bytes")
    postgres.execute(f"DROP TABLE {schema}.claim")
    postgres.execute(f"UPDATE {schema}.alembic_version SET version_num = '0001'")
    assert await events_in(url) == [OPENED]
    assert postgres.execute(f"SELECT version_num FROM {schema}.alembic_version") == [(HEAD,)]


async def test_a_newer_schema_and_another_programs_tables_are_refused(postgres: PostgresServer) -> None:
    newer, foreign = postgres.url(), postgres.url()
    await (await open_store(config(newer))).close()
    postgres.execute(f"UPDATE {newer.rpartition('%3D')[2]}.alembic_version SET version_num = '9999'")
    postgres.execute(f"CREATE TABLE {foreign.rpartition('%3D')[2]}.sessions (cookie text)")
    codes = []
    for url in (newer, foreign):
        with pytest.raises(StoreError) as caught:
            await open_store(config(url))
        codes.append(caught.value.code)
    assert codes == ["store_newer", "store_corrupt"]


async def test_a_database_that_cannot_hold_every_text_is_refused(postgres: PostgresServer) -> None:
    postgres.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    url = postgres.url().partition("?")[0].replace("/postgres", "/ascii")
    with pytest.raises(StoreError, match="UTF8"):
        await open_store(config(url))


KILLED_IN_MIGRATION = """
import asyncio, os, signal, sys
from sqlalchemy import Engine, event
from parrot.store import StoreConfig, open_store

@event.listens_for(Engine, "before_cursor_execute")
def strike(connection, cursor, statement, *rest):
    if "CREATE TABLE" in statement and "claim" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(open_store(StoreConfig(url=sys.argv[1])))
"""


async def test_a_migration_that_was_killed_is_done_again(postgres: PostgresServer) -> None:
    url = postgres.url()
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED_IN_MIGRATION, url], check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL
    assert await events_in(url) == []


def test_migrations_build_exactly_the_schema_in_postgresql(postgres: PostgresServer) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from parrot.store.postgres import open_postgres

    database = open_postgres(config(postgres.url()))
    with contextlib.closing(database):
        differences = database.read(
            lambda connection: compare_metadata(MigrationContext.configure(connection), METADATA)
        )
    assert differences == []
