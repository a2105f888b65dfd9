"""Invariant S4: a writing process is killed at random; no acknowledged append is lost or half there."""

import os
import random
import select
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from parrot.store import StoreConfig, open_store
from parrot.types.events import VariableReady, VariableSet
from parrot.types.ids import SessionId

NUM_KILLS = 8
EVENTS_OF_AN_APPEND = 3
WRITER = """
import asyncio, itertools, os, sys
from pathlib import Path
from parrot.store import StoreConfig, open_store
from parrot.types.events import SessionOpened, VariableReady, VariableSet

SESSION = "ses"
life = sys.argv[2]

def ready(variable, value):
    return VariableReady(
        session_id=SESSION, variable_id=variable, call_id="c", attempt=1, value=value, num_tokens=1
    )

async def write(store, numbers):
    for number in numbers:
        name = f"{life}.{number}"
        text = name + " " + "x" * (number * 37 % 3000)
        await store.append([
            VariableSet(session_id=SESSION, variable_id=name, name=None, value=text),
            ready(name, text),
            ready("contested", name),
            VariableSet(session_id=SESSION, variable_id=name, name=None, value=text),
        ])
        os.write(1, f"{name}\\n".encode())

async def main():
    store = await open_store(StoreConfig(path=Path(sys.argv[1])))
    if not await store.load_session(SESSION):
        await store.append([SessionOpened(
            session_id=SESSION, tenant_id="default", name=None, objective=None, deadline_s=None, metadata={},
            wall_s=0.0
        )])
    os.write(1, b"begin\\n")
    numbers = itertools.count()
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(write(store, numbers))

asyncio.run(main())
"""


async def test_acknowledged_appends_survive_kill_and_none_is_half_there(tmp_path: Path) -> None:
    path = tmp_path / "parrot.db"
    chance = random.Random(0)
    acknowledged: set[str] = set()
    for life in range(NUM_KILLS):
        acknowledged |= _write_until_killed(path, life, chance.uniform(0.0, 0.25))
    store = await open_store(StoreConfig(path=path))
    log = await store.load_session(SessionId("ses"))
    await store.close()

    resolved = [item.event for item in log if isinstance(item.event, VariableReady)]
    contested = [event for event in resolved if event.variable_id == "contested"]
    written = Counter(
        event.value.split()[0]
        for event in (item.event for item in log)
        if isinstance(event, VariableReady | VariableSet) and event.variable_id != "contested"
    )
    assert len(acknowledged) >= 50 * NUM_KILLS
    assert acknowledged <= written.keys()
    assert set(written.values()) == {EVENTS_OF_AN_APPEND}
    assert [item.seq for item in log] == list(range(1, len(log) + 1))
    assert len(contested) == 1
    assert len(resolved) - 1 == len({event.variable_id for event in resolved}) - 1 == len(written)


def _write_until_killed(path: Path, life: int, lifetime_s: float) -> set[str]:
    """The names of the appends that the process had acknowledged when it was killed."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(life)], stdout=subprocess.PIPE, bufsize=0
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begin\n"
        received = b""
        ends_at = time.monotonic() + 0.1 + lifetime_s
        while (left_s := ends_at - time.monotonic()) > 0:
            if select.select([writer.stdout], [], [], left_s)[0]:
                received += os.read(writer.stdout.fileno(), 65536)
        writer.kill()
        received += writer.stdout.read()
    return set(received.decode().split())
