"""Once its engines' caches are full, a service keeps nothing of the sessions that come and go."""

import asyncio
import gc
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from core_harness import TENANT, call, get, open_session, running_service, submit

from parrot.core.executor import ahead
from parrot.core.service import Service
from parrot.engine.scripted_config import ScriptedConfig
from parrot.store import open_store
from parrot.store.config import StoreConfig

NUM_SESSIONS = 30
NUM_MAPS = 6
PATIENCE_S = 30.0
SMALL = ScriptedConfig(num_blocks=96)
"""Full after some sessions."""


async def come_and_go(service: Service, number: int) -> None:
    """A session with texts of its own: pieces, a call that joins them, and the end."""
    sid = await open_session(service)
    pieces = [
        call("Summarise {{text}}: {{out}}", f"s{piece}", text=f"piece {piece} of document {number}")
        for piece in range(NUM_MAPS)
    ]
    names = {f"in_{piece}": f"$s{piece}" for piece in range(NUM_MAPS)}
    joined = call(
        "Join " + " ".join(f"{{{{{name}}}}}" for name in names) + ": {{out}}", "all", max_tokens=8, **names
    )
    await submit(service, sid, *pieces, joined)
    assert (await get(service, sid, "all", wait_s=PATIENCE_S)).state == "ready"
    await service.delete_session(TENANT, sid)


def alive() -> Counter[str]:
    """Objects of the service's own classes, and what they keep things in, by class."""
    gc.collect()
    names = (f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    return Counter(name for name in names if name.startswith(("parrot.", "builtins.dict", "builtins.list")))


def alive_more(before: Counter[str]) -> dict[str, int]:
    """Of which classes there are more than `before`, by as many as every other session would leave."""
    return {name: num for name, num in (alive() - before).items() if num > NUM_SESSIONS}


async def test_sessions_that_come_and_go_leave_no_objects_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "REMEMBERED", NUM_SESSIONS)
    store = await open_store(StoreConfig(path=tmp_path / "store.db"))
    async with running_service(SMALL, store=store) as service:
        for number in range(NUM_SESSIONS):
            await come_and_go(service, number)
        before = alive()
        for number in range(NUM_SESSIONS, 3 * NUM_SESSIONS):
            await come_and_go(service, number)
        # What of the last session still ends is gone in a moment.
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while alive_more(before):
                    await asyncio.sleep(0.1)
        assert not alive_more(before)
