"""Rows of the catalogue about who holds a connection, or a key, longer than he should; row 140 with them."""

import asyncio
import hashlib
import logging
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from http_harness import KEY_A, call, error_code, running_service

from parrot.server.keys import KEY_PREFIX, KeyEntry, KeyFile, write_key_file


def entry(key_id: str, key: str, *, revoked: bool = False) -> KeyEntry:
    """A key of the tenant `c`."""
    now = datetime.now(UTC)
    digest = hashlib.sha256(key.encode()).hexdigest()
    return KeyEntry(key_id=key_id, tenant="c", sha256=digest, created=now, revoked=now if revoked else None)


KEY = KEY_PREFIX + "c" * 43


async def test_row_19_idle_connections_beyond_the_limit_are_refused_and_others_are_served() -> None:
    async with running_service(max_connections=40) as service:
        assert (await service.client.get("/healthz")).status_code == 200  # its connection stays open
        idle = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(400)]
        try:
            refused = [await asyncio.wait_for(reader.read(12), 30) for reader, _ in idle[100:]]
            assert set(refused) == {b"HTTP/1.1 503"}
            await service.check_canary()
        finally:
            for _, writer in idle:
                writer.close()
        async with httpx2.AsyncClient(base_url=service.client.base_url) as fresh:
            async with asyncio.timeout(30):
                while (await fresh.get("/healthz")).status_code != 200:
                    await asyncio.sleep(0.05)


async def test_row_26_a_key_in_the_address_opens_nothing_and_is_written_nowhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        running_service() as service,
        httpx2.AsyncClient(base_url=service.client.base_url) as client,
    ):
        told = [
            await client.get("/v1/sessions", params={name: KEY_A})
            for name in ("api_key", "key", "access_token", "authorization")
        ]
    ours = [record for record in caplog.records if not record.name.startswith("http")]  # else the client's
    assert {(answer.status_code, error_code(answer)) for answer in told} == {(401, "unauthenticated")}
    assert not [record for record in ours if KEY_A in record.getMessage()]
    assert KEY_A not in "".join(answer.text for answer in told)


async def test_row_27_a_revoked_key_opens_nothing_and_its_streams_end(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_key_file(path, KeyFile(keys=(entry("key_00000001", KEY),)))
    async with running_service(keys_file=path, heartbeat_s=0.2) as service:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx2.AsyncClient(base_url=service.client.base_url, headers=headers) as client:
            sid = (await client.post("/v1/sessions", json={})).json()["session_id"]
            waiting = call("{{x}} {{out}}", x={"variable": "never"}, out={"output": {"variable": "o"}})
            await client.post(f"/v1/sessions/{sid}/calls", json={"calls": [waiting]})
            async with client.stream("GET", f"/v1/sessions/{sid}/variables/o/stream") as stream:
                assert stream.status_code == 200
                write_key_file(path, KeyFile(keys=(entry("key_00000001", KEY, revoked=True),)))
                async with asyncio.timeout(10):
                    rest = b"".join([chunk async for chunk in stream.aiter_raw()])
            after = await client.get(f"/v1/sessions/{sid}")
    assert b"unauthenticated" in rest
    assert (after.status_code, error_code(after)) == (401, "unauthenticated")


async def test_row_140_a_key_file_that_breaks_is_not_taken_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_key_file(path, KeyFile(keys=(entry("key_00000001", KEY),)))
    async with running_service(keys_file=path) as service:
        headers = {"Authorization": f"Bearer {KEY}"}
        before = await service.client.get("/v1/sessions", headers=headers)
        path.write_text("{")
        async with asyncio.timeout(10):
            while "key" not in (await service.client.get("/readyz")).text:
                await asyncio.sleep(0.1)
                await service.client.get("/v1/sessions", headers=headers)
        after = await service.client.get("/v1/sessions", headers=headers)
    assert (before.status_code, after.status_code) == (200, 200)
