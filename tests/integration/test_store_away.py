"""A store that does not answer, and one of which nobody knows what it holds."""

import asyncio
from collections.abc import Sequence

import pytest
from core_harness import call, get, open_session, running_service, submit
from store_fakes import UnsteadyStore

from parrot.core.executor import journal
from parrot.errors import StoreError
from parrot.ports.store import AppendOutcome, IdempotentReply
from parrot.types.events import Event


class UnsafeStore(UnsteadyStore):
    """Does not know any more what it holds once it is `unsafe`."""

    unsafe = False

    async def append(
        self, events: Sequence[Event], *, idempotent: IdempotentReply | None = None
    ) -> AppendOutcome:
        if self.unsafe:
            raise StoreError("nobody knows", code="store_unsafe")
        return await super().append(events, idempotent=idempotent)


async def test_who_comes_while_the_store_does_not_answer_is_refused_and_it_goes_on_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "SLOW_S", 0.05)
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        store.gate.clear()
        first = asyncio.ensure_future(submit(service, sid, call("a {{out}}", "a")))
        await store.held()
        await asyncio.sleep(0.1)
        with pytest.raises(StoreError) as caught:
            await open_session(service)
        assert (caught.value.code, service.health().status) == ("store_unavailable", "unavailable")
        store.gate.set()
        await first
        assert (await get(service, sid, "a")).state == "ready"
        assert service.health().status == "ok"


async def test_a_store_that_refuses_is_told_by_the_readiness_check() -> None:
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        store.down = True
        with pytest.raises(StoreError):
            await open_session(service)
        assert service.health().status == "unavailable"
        store.down = False
        await open_session(service)
        assert service.health().status == "ok"


async def test_the_service_ends_when_nobody_knows_what_is_stored() -> None:
    store = UnsafeStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        store.unsafe = True
        with pytest.raises(StoreError):
            await submit(service, sid, call("a {{out}}", "a"))
        async with asyncio.timeout(30):
            await service.wait_stopped()
        assert service.health().status == "unavailable"
