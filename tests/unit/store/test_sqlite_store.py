import asyncio
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Pool, event
from store_events import OPENED, value_set

from parrot.errors import StoreError
from parrot.store import StoreConfig, open_store
from parrot.store.database import MIGRATIONS
from parrot.store.schema import HEAD, METADATA
from parrot.types.events import Event


async def fill(path: Path, *values: str) -> None:
    store = await open_store(StoreConfig(path=path))
    await store.append([OPENED, *map(value_set, values)])
    await store.close()


async def events_in(path: Path) -> list[Event]:
    store = await open_store(StoreConfig(path=path))
    log = await store.load_session(OPENED.session_id)
    await store.close()
    return [item.event for item in log]


async def refusal(path: Path) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await open_store(StoreConfig(path=path))
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store of µ?#%20.db"


async def test_events_survive_closing_and_opening(path: Path) -> None:
    await fill(path, "one", "\x00 two \u2028")
    assert await events_in(path) == [OPENED, value_set("one"), value_set("\x00 two \u2028")]


async def test_sequence_goes_on_after_opening(path: Path) -> None:
    await fill(path, "one")
    store = await open_store(StoreConfig(path=path))
    outcome = await store.append([value_set("two")])
    await store.close()
    assert outcome.appended[0].seq == 3


async def test_files_are_for_their_owner_only(path: Path) -> None:
    store = await open_store(StoreConfig(path=path))
    await store.append([OPENED])
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    await store.close()
    assert len(modes) == 4
    assert set(modes.values()) == {0o600}


async def test_commits_wait_for_the_disk_and_the_log_is_in_wal_mode(path: Path) -> None:
    statements: list[str] = []
    with _listening(
        Engine, "connect", lambda connection, _record: connection.set_trace_callback(statements.append)
    ):
        await fill(path)
    with closing(sqlite3.connect(path)) as connection:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    assert mode == "wal"
    assert "PRAGMA synchronous=full" in statements
    assert "BEGIN IMMEDIATE" in statements


async def test_a_second_opening_in_one_process_is_refused(path: Path) -> None:
    store = await open_store(StoreConfig(path=path))
    error = await refusal(path)
    await store.close()
    assert (error.code, error.data) == ("store_locked", {"pid": os.getpid()})
    assert await events_in(path) == []


async def test_a_second_process_is_refused_and_told_who_has_it(path: Path) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path; from parrot.store import *\n"
        "async def main():\n"
        "    store = await open_store(StoreConfig(path=Path(sys.argv[1])))\n"
        "    print('open', flush=True); sys.stdin.read(); await store.close()\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        error = await refusal(path)
        holder.communicate()
    assert (error.code, error.data["pid"]) == ("store_locked", holder.pid)
    assert str(holder.pid) in error.message
    assert await events_in(path) == []


@pytest.mark.parametrize(
    "content", [b"", b"SQLite format 3\x00", b"hello\n" * 1000], ids=["empty", "cut", "text"]
)
async def test_a_file_that_is_no_store_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    """Invariant S5."""
    path.write_bytes(content)
    error = await refusal(path)
    assert error.code == "store_corrupt"
    assert path.read_bytes() == content


async def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    before = path.read_bytes()
    error = await refusal(path)
    assert error.code == "store_corrupt"
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["flip", "cut", "header"])
async def test_a_damaged_store_is_refused_with_the_way_to_recover(path: Path, damage: str) -> None:
    await fill(path, *("x" * 5000 for _ in range(50)))
    content = bytearray(path.read_bytes())
    match damage:
        case "flip":
            content[2 * 4096 : 2 * 4096 + 64] = b"\xff" * 64
        case "cut":
            del content[len(content) // 2 :]
        case _:
            content[16:100] = bytes(84)
    path.write_bytes(content)
    error = await refusal(path)
    assert error.code == "store_corrupt"
    assert ".recover" in error.message
    assert path.read_bytes() == content


async def test_a_store_whose_file_is_gone_but_not_its_wal_is_refused(path: Path) -> None:
    await fill(path)
    path.rename(f"{path}-wal")
    error = await refusal(path)
    assert error.code == "store_corrupt"
    assert not path.exists()


async def test_an_event_that_cannot_be_read_is_damage(path: Path) -> None:
    await fill(path, "one")
    _execute(path, "UPDATE events SET body = '{}' WHERE seq = 2")
    with pytest.raises(StoreError) as caught:
        await events_in(path)
    assert caught.value.code == "store_corrupt"


@pytest.mark.parametrize(
    "statement",
    ["UPDATE alembic_version SET version_num = '9999'", "UPDATE events SET name = 'call_teleported'"],
)
async def test_a_store_of_a_newer_version_is_refused(path: Path, statement: str) -> None:
    await fill(path)
    _execute(path, statement)
    with pytest.raises(StoreError) as caught:
        await events_in(path)
    assert caught.value.code == "store_newer"


async def test_a_store_of_the_first_schema_is_brought_to_this_one(path: Path) -> None:
    await fill(path, "one")
    _to_first_schema(path)
    assert await events_in(path) == [OPENED, value_set("one")]


async def test_a_migration_finds_whose_each_session_is_and_what_it_takes(path: Path) -> None:
    await fill(path, "x" * 1000)
    store = await open_store(StoreConfig(path=path))
    before = dict((await store.usage()).bytes_of)
    await store.close()
    _to_first_schema(path)
    store = await open_store(StoreConfig(path=path))
    assert (await store.usage()).bytes_of == before
    assert before[OPENED.tenant_id] > 1000
    await store.close()


async def test_the_room_on_its_disk_is_known(path: Path) -> None:
    store = await open_store(StoreConfig(path=path))
    usage = await store.usage()
    await store.close()
    assert usage.free_bytes is not None
    assert usage.total_bytes is not None
    assert 0 < usage.free_bytes < usage.total_bytes


KILLED_IN_MIGRATION = """
import asyncio, os, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from parrot.store import StoreConfig, open_store

@event.listens_for(Engine, "before_cursor_execute")
def strike(connection, cursor, statement, *rest):
    if sys.argv[2] in statement:
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(open_store(StoreConfig(path=Path(sys.argv[1]))))
"""


@pytest.mark.parametrize("instant", ["INSERT INTO claim", "UPDATE sessions", "UPDATE alembic_version"])
async def test_a_migration_that_was_killed_is_done_again(path: Path, instant: str) -> None:
    await fill(path, "one")
    _to_first_schema(path)
    killed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", KILLED_IN_MIGRATION, str(path), instant],
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    assert await events_in(path) == [OPENED, value_set("one")]


async def test_who_lost_the_claim_writes_no_more(path: Path) -> None:
    """Invariant S6."""
    first = await open_store(StoreConfig(path=path))
    await first.append([OPENED])
    path.with_name(f"{path.name}.lock").unlink()
    second = await open_store(StoreConfig(path=path))
    await second.append([value_set("second")])
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            await first.append([value_set("first")])
    await first.close()
    await second.close()
    assert caught.value.code == "store_unsafe"
    assert await events_in(path) == [OPENED, value_set("second")]


async def test_making_a_store_that_was_interrupted_is_begun_again(path: Path) -> None:
    path.with_name(f".{path.name}.new").write_bytes(b"half of it")
    await fill(path, "one")
    assert await events_in(path) == [OPENED, value_set("one")]
    assert not path.with_name(f".{path.name}.new").exists()


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    error = await refusal(tmp_path / "nowhere" / "parrot.db")
    assert error.code == "store_unavailable"
    assert str(tmp_path / "nowhere") in error.message


async def test_a_directory_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    assert (await refusal(path)).code == "store_unavailable"


async def test_another_program_holding_the_file_makes_appends_fail_until_it_lets_go(path: Path) -> None:
    store = await open_store(StoreConfig(path=path, busy_timeout_s=0.05))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(
            store.append([OPENED]), store.append([value_set("one")]), return_exceptions=True
        )
        other.execute("ROLLBACK")
    assert [getattr(result, "code", None) for result in results] == ["store_unavailable"] * 2
    assert await store.load_session(OPENED.session_id) == ()
    await store.append([OPENED, value_set("two")])
    assert len(await store.load_session(OPENED.session_id)) == 2
    await store.close()


async def test_a_full_file_fails_the_whole_group_and_works_again_with_space(path: Path) -> None:
    pages = 2**31 - 2
    with _page_limit(lambda: pages):
        store = await open_store(StoreConfig(path=path))
        await store.append([OPENED])
        pages = 20
        results = await asyncio.gather(
            store.append([value_set("small")]),
            store.append([value_set("x" * 500_000)]),
            return_exceptions=True,
        )
        assert [getattr(result, "code", None) for result in results] == ["store_full"] * 2
        assert len(await store.load_session(OPENED.session_id)) == 1
        pages = 2**31 - 2
        await store.append([value_set("x" * 500_000)])
        assert len(await store.load_session(OPENED.session_id)) == 2
        await store.close()


async def test_a_full_disk_acknowledges_nothing_and_reads_go_on(tmp_path: Path) -> None:
    with _mounted(tmp_path / "disk", "size=2m") as disk:
        store = await open_store(StoreConfig(path=disk / "parrot.db"))
        await store.append([OPENED])
        (disk / "ballast").write_bytes(b"x" * 1_000_000)
        with pytest.raises(StoreError) as caught:
            await store.append([value_set("x" * 50_000)] * 100)
        kept = len(await store.load_session(OPENED.session_id))
        (disk / "ballast").unlink()
        await store.append([value_set("small")])
        assert len(await store.load_session(OPENED.session_id)) == kept + 1
        await store.close()
    assert caught.value.code == "store_full"


async def test_a_read_only_disk_is_refused(tmp_path: Path) -> None:
    with _mounted(tmp_path / "disk", "size=2m") as disk:
        await fill(disk / "parrot.db")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        error = await refusal(disk / "parrot.db")
    assert error.code == "store_unavailable"
    assert "Read-only" in error.message


async def test_nothing_is_written_after_the_disk_failed_to_keep_its_promise(path: Path) -> None:
    store = await open_store(StoreConfig(path=path))
    await store.append([OPENED])

    def fail(*_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"
        raise error

    with _listening(Engine, "commit", fail), pytest.raises(StoreError):
        await store.append([value_set("lost")])
    with pytest.raises(StoreError, match="IOERR_FSYNC") as caught:
        await store.append([value_set("after")])
    assert caught.value.code == "store_unsafe"
    assert len(await store.load_session(OPENED.session_id)) == 1
    await store.close()
    assert await events_in(path) == [OPENED]


async def test_text_that_cannot_be_encoded_fails_alone(path: Path) -> None:
    store = await open_store(StoreConfig(path=path))
    await store.append([OPENED])
    good, bad = await asyncio.gather(
        store.append([value_set("fine")]), store.append([value_set("\ud800")]), return_exceptions=True
    )
    await store.close()
    assert (isinstance(good, BaseException), isinstance(bad, ValueError)) == (False, True)


async def test_errors_tell_nothing_of_what_was_written(path: Path) -> None:
    store = await open_store(StoreConfig(path=path))
    await store.append([OPENED])
    with _page_limit(lambda: 20), pytest.raises(StoreError) as caught:
        await store.append([value_set("swordfish" * 60_000)])
    await store.close()
    assert caught.value.__cause__ is not None
    assert "swordfish" not in f"{caught.value}{caught.value.__cause__}"


def test_migrations_build_exactly_the_schema(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from parrot.store.opening import prepare

    engine = prepare(tmp_path / "s.db", StoreConfig())
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), METADATA)
    engine.dispose()
    assert differences == []
    assert ScriptDirectory(MIGRATIONS).get_current_head() == HEAD


def _to_first_schema(path: Path) -> None:
    _execute(path, "ALTER TABLE sessions DROP COLUMN tenant_id")
    _execute(path, "ALTER TABLE sessions DROP COLUMN num_bytes")
    _execute(path, "DROP TABLE claim")
    _execute(path, "UPDATE alembic_version SET version_num = '0001'")


def _execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


@contextmanager
def _listening(target: object, name: str, listener: Callable[..., None]) -> Iterator[None]:
    event.listen(target, name, listener)
    try:
        yield
    finally:
        event.remove(target, name, listener)


@contextmanager
def _page_limit(limit: Callable[[], int]) -> Iterator[None]:
    """SQLite's own way to have a full disk: the file may not grow beyond so many pages."""

    def apply(connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count={limit()}")

    with _listening(Pool, "checkout", apply):
        yield


@contextmanager
def _mounted(directory: Path, options: str) -> Iterator[Path]:
    """A small file system of its own, where this user may mount one."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)
