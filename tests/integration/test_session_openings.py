"""Opening a session is sent again safely: under one key it is opened once."""

import asyncio
from pathlib import Path

import httpx2
import pytest
from core_harness import TENANT, running_service
from http_harness import Harness, error_code

from parrot.core.limits import Limits
from parrot.errors import GoneError
from parrot.sdk.client import Client
from parrot.store import StoreConfig, open_store
from parrot.wire.requests import SessionCreate

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_one_key_opens_one_session_however_often_it_is_sent(http_service: Harness) -> None:
    key = {"Idempotency-Key": "open-1"}
    post = http_service.client.post
    answers = await asyncio.gather(*(post("/v1/sessions", json={}, headers=key) for _ in range(20)))
    other = await post("/v1/sessions", json={"name": "other"}, headers=key)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["session_id"] for answer in answers}) == 1
    assert (other.status_code, error_code(other)) == (422, "idempotency_mismatch")


async def test_a_key_is_known_after_a_restart_and_when_no_more_may_be_open(tmp_path: Path) -> None:
    durable, limits = StoreConfig(path=tmp_path / "parrot.db"), Limits(max_sessions=1)
    async with running_service(store=await open_store(durable), limits=limits) as service:
        first = await service.open_session(TENANT, SessionCreate(), idempotency_key="k")
    async with running_service(store=await open_store(durable), limits=limits) as service:
        again = await service.open_session(TENANT, SessionCreate(), idempotency_key="k")
        await service.delete_session(TENANT, first.session_id)
        with pytest.raises(GoneError):
            await service.open_session(TENANT, SessionCreate(), idempotency_key="k")
    assert again.session_id == first.session_id


class CuttingTransport(httpx2.AsyncBaseTransport):
    """Delivers every request, and loses the answer to the first."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner
        self.num_lost = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        if not self.num_lost:
            self.num_lost += 1
            await response.aread()
            await response.aclose()
            raise httpx2.ReadError("connection reset")
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_the_sdk_opens_one_session_when_the_answer_was_lost(http_service: Harness) -> None:
    transport = CuttingTransport(httpx2.AsyncHTTPTransport())
    headers = http_service.client.headers
    client = Client(
        httpx2.AsyncClient(base_url=http_service.client.base_url, headers=headers, transport=transport)
    )
    before = http_service.service.counters()["sessions_opened"]
    view = await client.open_session(SessionCreate(name="lost"))
    after = http_service.service.counters()["sessions_opened"]
    await client.delete_session(view.session_id)
    await client.aclose()
    assert (transport.num_lost, after - before) == (1, 1)
