"""A session whose end is refused goes on with all that was committed to it: memory and log agree."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from core_harness import TENANT, call, get, open_session, running_service, submit
from store_fakes import UnsteadyStore

from parrot.core.limits import Limits
from parrot.core.recovery import rebuild
from parrot.core.service import Service
from parrot.errors import GoneError, StoreError
from parrot.ports.store import AppendOutcome, IdempotentReply
from parrot.types.events import Event, SessionClosed
from parrot.types.ids import SessionId
from parrot.wire.requests import SetVariable


class EndlessStore(UnsteadyStore):
    """Refuses the ends of sessions, and takes all else."""

    async def append(
        self, events: Sequence[Event], *, idempotent: IdempotentReply | None = None
    ) -> AppendOutcome:
        if any(isinstance(event, SessionClosed) for event in events):
            raise StoreError("the disk is full", code="store_full")
        return await super().append(events, idempotent=idempotent)


async def closed_in_vain(
    service: Service, store: UnsteadyStore, sid: str, work: Coroutine[Any, Any, object]
) -> None:
    """Have work done whose commit is under way when the session is to be closed."""
    store.gate.clear()
    working = asyncio.create_task(work)
    await store.held()
    closing = asyncio.create_task(service.delete_session(TENANT, sid))
    await asyncio.sleep(0.01)
    store.gate.set()
    with pytest.raises(StoreError):
        await closing
    await working


async def test_a_value_that_was_being_set_is_set() -> None:
    store = EndlessStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        await closed_in_vain(
            service, store, sid, service.set_variable(TENANT, sid, "x", SetVariable(value="1"))
        )
        again = await service.set_variable(TENANT, sid, "x", SetVariable(value="1"))
        session, _ = rebuild(await store.load_session(SessionId(sid)), Limits())
        assert [(v.variable_id, v.value) for v in session.graph.variables.values()] == [
            (again.variable_id, "1")
        ]


async def test_calls_that_were_being_submitted_run() -> None:
    store = EndlessStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        await closed_in_vain(service, store, sid, submit(service, sid, call("x {{out}}", "a")))
        assert (await get(service, sid, "a")).state == "ready"
        session, _ = rebuild(await store.load_session(SessionId(sid)), Limits())
        assert list(session.graph.calls) == [c.call_id for c in service.graph(TENANT, sid).calls]


async def test_who_comes_while_it_is_being_closed_waits_until_that_is_known() -> None:
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        store.gate.clear()
        first = asyncio.create_task(service.set_variable(TENANT, sid, "x", SetVariable(value="1")))
        await store.held()
        closing = asyncio.create_task(service.delete_session(TENANT, sid))
        await asyncio.sleep(0.01)
        late = asyncio.create_task(service.set_variable(TENANT, sid, "y", SetVariable(value="1")))
        await asyncio.sleep(0.01)
        store.gate.set()
        assert (await first).state == "ready"
        await closing
        with pytest.raises(GoneError):
            await late
