"""Others at work in the same PostgreSQL database: locks, deadlocks, changes beneath a transaction, a server
that stands still.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest
from reliability.postgres_server import PASSWORD, USER, PostgresServer, missing
from reliability.served_process import Served
from store_events import OPENED, value_set

from parrot.errors import StoreError
from parrot.store import StoreConfig, open_store

if TYPE_CHECKING:
    import psycopg

NUM_READERS = 12


def config(url: str, busy_timeout_s: float) -> StoreConfig:
    return StoreConfig(url=url, busy_timeout_s=busy_timeout_s)


@contextmanager
def another_program(server: PostgresServer, url: str) -> Iterator["psycopg.Connection"]:
    """A connection of somebody else, whom the server never takes for the one who made a deadlock."""
    import psycopg

    address = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{server.port}/postgres"
    with psycopg.connect(address, options=f"-csearch_path={url.rpartition('%3D')[2]}") as connection:
        connection.execute("SET LOCAL deadlock_timeout = '60s'")
        yield connection


async def until_waiting(server: PostgresServer, num: int = 1) -> None:
    """Return when so many of the store's statements wait for a lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND application_name LIKE 'Parrot%'"
    )
    async with asyncio.timeout(10):
        while await asyncio.to_thread(server.execute, query) < [(num,)]:
            await asyncio.sleep(0.01)


async def test_an_append_that_was_part_of_a_deadlock_is_made_again(postgres: PostgresServer) -> None:
    url = postgres.url()
    store = await open_store(config(url, 10.0))
    with another_program(postgres, url) as other:
        other.execute("LOCK TABLE events IN EXCLUSIVE MODE")
        appending = asyncio.create_task(store.append([OPENED, value_set("one")]))
        await until_waiting(postgres)
        await asyncio.to_thread(other.execute, "LOCK TABLE sessions IN EXCLUSIVE MODE")
        other.commit()
    outcome = await appending
    log = [item.event for item in await store.load_session(OPENED.session_id)]
    await store.close()
    assert [item.seq for item in outcome.appended] == [1, 2]
    assert log == [OPENED, value_set("one")]


async def test_an_append_that_does_not_fit_anothers_change_is_made_again(postgres: PostgresServer) -> None:
    url = postgres.url()
    schema = url.rpartition("%3D")[2]
    strict = url.replace(schema, f"{schema}%20-cdefault_transaction_isolation%3Dserializable")
    store = await open_store(config(strict, 10.0))
    await store.append([OPENED])
    with another_program(postgres, url) as other:
        other.execute("UPDATE sessions SET num_bytes = num_bytes")
        appending = asyncio.create_task(store.append([value_set("one")]))
        await until_waiting(postgres)
        other.commit()
    outcome = await appending
    await store.close()
    assert [item.seq for item in outcome.appended] == [2]


async def test_an_append_that_is_in_the_way_again_and_again_is_refused(postgres: PostgresServer) -> None:
    url = postgres.url()
    store = await open_store(config(url, 10.0))
    await store.append([OPENED])
    schema = url.rpartition("%3D")[2]
    postgres.execute(
        f"CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'in the way' USING ERRCODE = '40001'; END $$"
    )
    postgres.execute(
        f"CREATE TRIGGER refuse BEFORE INSERT ON {schema}.events EXECUTE FUNCTION {schema}.refuse()"
    )
    with pytest.raises(StoreError) as caught:
        await store.append([value_set("one")])
    postgres.execute(f"DROP TRIGGER refuse ON {schema}.events")
    await store.append([value_set("two")])
    log = [item.event for item in await store.load_session(OPENED.session_id)]
    await store.close()
    assert (caught.value.code, caught.value.retryable) == ("store_unavailable", True)
    assert log == [OPENED, value_set("two")]


async def test_more_readers_than_connections_are_refused_in_time_and_the_loop_goes_on(
    postgres: PostgresServer,
) -> None:
    url = postgres.url()
    store = await open_store(config(url, 1.0))
    await store.append([OPENED])
    late_s, began_s = 0.0, time.monotonic()
    with another_program(postgres, url) as other:
        other.execute("LOCK TABLE events, sessions IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.gather(
            *(store.load_session(OPENED.session_id) for _ in range(NUM_READERS)), return_exceptions=True
        )
        while not reading.done():
            asked_s = time.monotonic()
            await asyncio.sleep(0.01)
            late_s = max(late_s, time.monotonic() - asked_s)
        took_s = time.monotonic() - began_s
        other.rollback()
    codes = {getattr(answer, "code", None) for answer in reading.result()}
    log = await store.load_session(OPENED.session_id)
    await store.close()
    assert codes == {"store_unavailable"}
    assert took_s < 8
    assert late_s < 0.5
    assert len(log) == 1


def test_a_second_service_over_one_database_is_refused_with_the_others_name(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    environment = {"PARROT_STORE__URL": postgres.url(), "PARROT_STORE__BUSY_TIMEOUT_S": "1"}
    first = Served(["--engine", "scripted", "--port", "0"], tmp_path, environment)
    try:
        url = first.url()
        second = Served(["--engine", "scripted", "--port", "0"], tmp_path, environment)
        try:
            status = second.end()
        finally:
            second.close()
        healthy = httpx2.get(f"{url}/readyz").status_code
    finally:
        first.close()
    assert (status, healthy) == (1, 200)
    assert f"in use by Parrot process {first.process.pid}" in second.said()


def processes_of(server: PostgresServer) -> list[int]:
    """The server's main process and its children."""
    main = int((server._data / "postmaster.pid").read_text(encoding="ascii").split()[0])
    children = Path(f"/proc/{main}/task/{main}/children").read_text(encoding="ascii").split()
    return [main, *map(int, children)]


@pytest.mark.slow
async def test_while_the_server_stands_still_reads_go_on_and_who_comes_is_refused(tmp_path: Path) -> None:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    pytest.importorskip("psycopg")
    server = await asyncio.to_thread(PostgresServer)
    served = Served(["--engine", "scripted", "--port", "0"], tmp_path, {"PARROT_STORE__URL": server.url()})
    stopped: list[int] = []
    try:
        url = await asyncio.to_thread(served.url)
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            session = f"/v1/sessions/{(await client.post('/v1/sessions', json={})).json()['session_id']}"
            await client.put(f"{session}/variables/before", json={"value": "before"})
            stopped = processes_of(server)
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            first = asyncio.create_task(client.put(f"{session}/variables/first", json={"value": "first"}))
            await asyncio.sleep(6.0)
            began_s = time.monotonic()
            read = (await client.get(f"{session}/variables/before")).json()
            refused = await client.post("/v1/sessions", json={})
            healthy, ready = await client.get("/healthz"), await client.get("/readyz")
            took_s = time.monotonic() - began_s
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            stopped = []
            waited = await first
            again = await client.post("/v1/sessions", json={})
            kept = (await client.get(f"{session}/variables/first")).json()
        assert served.end(signal.SIGTERM) == 0
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        served.close()
        await asyncio.to_thread(server.close)
    assert read["value"] == "before"
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert "retry-after" in refused.headers
    assert (healthy.status_code, ready.status_code) == (200, 503)
    assert took_s < 2
    assert waited.status_code < 300
    assert (again.status_code, kept["value"]) == (201, "first")
