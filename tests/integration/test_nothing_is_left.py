"""Whatever clients do and whenever engines go down: when all sessions are gone, nothing of them is left."""

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from core_harness import TENANT, call, open_session, running_service, submit

from parrot.core.executor.fleet import Member
from parrot.core.service import Service
from parrot.core.service_config import ServiceConfig
from parrot.engine.scripted import ScriptedEngine
from parrot.engine.scripted_config import ScriptedConfig, ScriptedFault
from parrot.errors import ParrotError
from parrot.ports.engine import Lost
from parrot.wire.requests import CancelRequest, SetVariable

ENGINE = ScriptedConfig(
    decode_step_s=0.001,
    tokens_per_step=2,
    prefill_tokens_per_s=20_000,
    step_tokens=64,
    num_blocks=400,
    max_batch=6,
    faults=(
        ScriptedFault(kind="raise", marker="unlucky", skip=2, times=3),
        ScriptedFault(kind="bad_output", marker="unlucky", on="generate", after_tokens=4, skip=4, times=2),
        ScriptedFault(kind="raise", on="fill", skip=7, times=2),
    ),
)
RULES = "You are a careful member of the team and follow every one of its many rules. "
BEGINNINGS = (RULES * 4, RULES * 12, RULES * 40, "unlucky " + RULES * 8)
NUM_STEPS = 60


class Clients:
    """Clients that do at random what clients can do."""

    def __init__(self, service: Service, seed: int) -> None:
        self._service = service
        self._random = random.Random(seed)
        self._sessions: dict[str, int] = {}
        """Each with the number of names in it."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Do this and that, then have everything deleted."""
        acts = [self._open, self._delete, self._cancel, self._lose, *[self._submit] * 4, *[self._set] * 3]
        acts += [self._cancel_some] * 2
        for _ in range(NUM_STEPS):
            act = self._random.choice(acts)
            self._tasks.add(asyncio.create_task(self._do(act())))
            await asyncio.sleep(self._random.choice([0, 0, 0.001, 0.003, 0.02]))
            if self._random.random() < 0.1:
                self._random.choice(list(self._tasks)).cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Who left while a session was opened for it does not know it.
        await self._service._unbroken.join()
        for session in self._service.list_sessions(TENANT, limit=NUM_STEPS).sessions:
            await self._service.delete_session(TENANT, session.session_id)

    async def _do(self, work: Any) -> None:
        with suppress(ParrotError):
            await work

    def _some_session(self) -> str:
        return self._random.choice(list(self._sessions)) if self._sessions else "none"

    async def _open(self) -> None:
        fields = {"deadline_s": 0.05} if self._random.random() < 0.2 else {}
        self._sessions[await open_session(self._service, **fields)] = 0

    async def _submit(self) -> None:
        if not self._sessions:
            await self._open()
        sid, rng = self._some_session(), self._random
        first = self._sessions[sid]
        num_calls = rng.randint(1, 6)
        self._sessions[sid] += num_calls
        calls: list[Mapping[str, Any]] = []
        for number in range(first, first + num_calls):
            names = [f"v{rng.randrange(number)}" for _ in range(rng.randint(0, 2)) if number]
            names += [f"x{rng.randrange(4)}"] if rng.random() < 0.4 else []
            inputs = {f"i{index}": f"${name}" for index, name in enumerate(names)}
            template = "{{w}} " + " ".join(f"{{{{{name}}}}}" for name in inputs) + " {{out}}"
            beginning = rng.choice(BEGINNINGS)
            length = rng.choice([2, 20, 150])
            calls.append(call(template, f"v{number}", max_tokens=length, w=beginning, **inputs))
        await submit(self._service, sid, *calls)

    async def _set(self) -> None:
        name = f"x{self._random.randrange(4)}"
        await self._service.set_variable(TENANT, self._some_session(), name, SetVariable(value="a value"))

    async def _cancel(self) -> None:
        await self._service.cancel(TENANT, self._some_session(), CancelRequest())

    async def _cancel_some(self) -> None:
        sid = self._some_session()
        calls = self._service.graph(TENANT, sid).calls
        if calls:
            some = self._random.sample(calls, min(len(calls), 2))
            await self._service.cancel(TENANT, sid, CancelRequest(calls=[one.call_id for one in some]))

    async def _delete(self) -> None:
        await self._service.delete_session(TENANT, self._some_session())

    async def _lose(self) -> None:
        engine = self._random.choice(members(self._service)).engine
        if isinstance(engine, ScriptedEngine):
            engine._end("it went down")
            engine._board.tell(Lost(reason="it went down"))


def members(service: Service) -> list[Member]:
    return list(service._fleet.members.values())


def left(service: Service) -> dict[str, object]:
    """What is kept of sessions, calls and contexts anywhere, by where it is; only what there is."""
    runtime, dispatcher, keeper = service._runtime, service._dispatcher, service._keeper
    room, ahead, retention = dispatcher._ready, runtime.ahead, runtime.retention
    fair, occupancy = room._fair, runtime.admission.occupancy
    assert fair is not None
    kept: dict[str, object] = {
        "active": dispatcher.active,
        "running": dispatcher._running,
        "again": dispatcher._again,
        "stale": dispatcher._stale,
        "seats": dispatcher._suspects._seats,
        "new": dispatcher._preparing._new,
        "prepared": dispatcher._preparing._prepared,
        "ready": room._ready,
        "groups": room._groups,
        "queued": fair._waiting,
        "queues": fair._queues,
        "charged": fair._charged,
        "waiting": occupancy.waiting,
        "occupied": occupancy.running,
        "kv_tokens": occupancy.kv_tokens,
        "wants": retention._wants,
        "near": retention._near,
        "told": retention._told,
        "filling": ahead._filling,
        "following": ahead._following,
        "abandoned": ahead._abandoned,
        "pipes": ahead._pipes,
        "live": runtime.live._texts,
        "locks": runtime.locks._locks,
        "waiters": runtime.bells.num_waiting,
        "sessions": keeper.sessions,
        "num_sessions": keeper._num_sessions,
    }
    for member in members(service):
        kept |= {
            f"{member.engine_id} calls": member.num_calls,
            f"{member.engine_id} latency calls": member.num_latency_calls,
            f"{member.engine_id} tokens": member.num_tokens,
            f"{member.engine_id} unfilled": member.num_unfilled_tokens,
            f"{member.engine_id} in use": member.in_use,
            f"{member.engine_id} suspect": member.has_suspect,
        }
        engine = member.engine
        if engine is None:
            kept[f"{member.engine_id} down"] = True
            continue
        assert isinstance(engine, ScriptedEngine)
        kept[f"{member.engine_id} blocks"] = engine.load().num_owned_blocks
        kept[f"{member.engine_id} work"] = engine.load().num_running + engine.load().num_waiting
        known = service._fleet.index._keys.get(member.engine_id, {})
        tree = engine._batcher.tree
        kept[f"{member.engine_id} unknown contexts"] = [one for one in known if tree.find(one) is None]
    return {name: value for name, value in kept.items() if value}


@pytest.mark.parametrize("seed", range(12))
async def test_when_all_sessions_are_gone_nothing_is_left(seed: int) -> None:
    config = ServiceConfig(restart_delay_s=0.01, sweep_interval_s=0.02)
    async with running_service(ENGINE, ENGINE, config=config) as service:
        async with asyncio.timeout(60):
            await Clients(service, seed).run()
        for _ in range(300):
            if not left(service):
                break
            await asyncio.sleep(0.01)
        assert left(service) == {}
        assert service.counters()["planning_faults"] == 0
        assert service.health().status == "ok"
