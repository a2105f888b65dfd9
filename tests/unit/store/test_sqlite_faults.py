"""What can happen to the file, or to the memory, beneath a store."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from store_events import OPENED

from parrot.store import StoreConfig, open_store
from parrot.types.events import Event, VariableSet
from parrot.types.ids import VariableId

NUM_APPENDS = 40
PROGRAM = """
import asyncio, os, signal, sqlite3, sys
from pathlib import Path
from parrot.errors import StoreError
from parrot.store import StoreConfig, open_store
from parrot.types.events import SessionOpened, VariableSet

def value_set(number, length):
    return VariableSet(
        session_id="ses", variable_id=f"var {number}", name=None, value=f"{number} " + "x" * length
    )

async def fill():
    store = await open_store(StoreConfig(path=Path(sys.argv[1])))
    await store.append([SessionOpened(
        session_id="ses", tenant_id="default", name=None, objective=None, deadline_s=None, metadata={},
        wall_s=1.0
    )])
    return store
"""
WITHOUT_MEMORY = """
async def main():
    store = await fill()
    sqlite3.connect(":memory:").execute("PRAGMA hard_heap_limit=400000")
    for number in range(3):
        try:
            await store.append([value_set(number, 900_000)])
        except StoreError as error:
            print(error.code)
    await store.close()

asyncio.run(main())
"""
KILLED = """
async def main():
    store = await fill()
    for number in range(int(sys.argv[2])):
        await store.append([value_set(number, 3000), value_set(number, 3000)])
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def value_set(number: int, length: int) -> Event:
    return VariableSet(
        session_id=OPENED.session_id,
        variable_id=VariableId(f"var {number}"),
        name=None,
        value=f"{number} " + "x" * length,
    )


async def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM + program, *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, timeout=60
    )


async def events_in(path: Path) -> list[Event]:
    store = await open_store(StoreConfig(path=path))
    log = await store.load_session(OPENED.session_id)
    await store.close()
    return [item.event for item in log]


async def test_a_store_that_ran_out_of_memory_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "parrot.db"
    done = await run(WITHOUT_MEMORY, str(path))
    assert done.stdout.split() == ["store_unsafe"] * 3, done.stderr
    assert await events_in(path) == [OPENED]


async def killed_with_a_wal(path: Path) -> Path:
    """A store whose process was killed before anything was moved from its WAL into the file."""
    done = await run(KILLED, str(path), str(NUM_APPENDS))
    assert done.returncode == -signal.SIGKILL, done.stderr
    return path.with_name(f"{path.name}-wal")


@pytest.mark.parametrize("left", [0.0, 0.1, 0.5, 0.9, 0.999])
async def test_of_a_wal_that_is_cut_every_whole_append_before_the_cut_is_kept(
    tmp_path: Path, left: float
) -> None:
    path = tmp_path / "parrot.db"
    wal = await killed_with_a_wal(path)
    os.truncate(wal, int(wal.stat().st_size * left))
    events = await events_in(path)
    num_kept = max(0, len(events) - 1) // 2
    kept = [value_set(number, 3000) for number in range(num_kept) for _ in range(2)]
    assert events == ([OPENED, *kept] if events else [])
    assert num_kept >= NUM_APPENDS * (left - 0.1)


async def test_of_a_wal_with_a_flipped_page_no_append_is_half_there(tmp_path: Path) -> None:
    path = tmp_path / "parrot.db"
    wal = await killed_with_a_wal(path)
    content = bytearray(wal.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    wal.write_bytes(content)
    events = await events_in(path)
    num_kept = (len(events) - 1) // 2
    assert events == [OPENED, *(value_set(number, 3000) for number in range(num_kept) for _ in range(2))]
    assert 0 < num_kept < NUM_APPENDS
