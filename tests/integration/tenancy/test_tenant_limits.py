"""Limits of tenants over HTTP: refused with when to come again, told, and changed in a running service; keys
that are revoked while they are in use.
"""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from http_harness import KEY_A, KEY_ADMIN, KEY_B, LIMITS, Harness, call, error_code, running_service

from parrot.core.limits import Limits
from parrot.server.auth import LOOK_INTERVAL_S
from parrot.server.keys import KeyEntry, KeyFile, TenantEntry, make_key, write_key_file

AS_B = {"Authorization": f"Bearer {KEY_B}"}


def limited(**limits: float) -> Limits:
    return replace(LIMITS, **limits)  # type: ignore[arg-type]


def retry_after_s(answer: httpx2.Response) -> int:
    """What a refusal says of when to come again."""
    assert answer.status_code in {429, 503}
    return int(answer.headers["retry-after"])


async def test_requests_beyond_the_rate_are_refused_and_looking_and_leaving_are_not() -> None:
    async with running_service(limits=limited(requests_per_s=0.1, requests_burst=2)) as service:
        sid = await service.session()
        await service.session()
        refused = await service.client.post("/v1/sessions", json={})
        assert (refused.status_code, error_code(refused)) == (429, "over_limit")
        assert 1 <= retry_after_s(refused) <= 10
        assert (await service.client.get(f"/v1/sessions/{sid}")).status_code == 200
        assert (await service.client.delete(f"/v1/sessions/{sid}")).status_code == 204
        assert (await service.client.post("/v1/sessions", json={}, headers=AS_B)).status_code == 201


@pytest.mark.parametrize("route", ["calls", "completions"])
async def test_tokens_that_are_used_up_come_back_with_time(route: str) -> None:
    long = {"sampling": {"max_tokens": 200, "ignore_eos": True}}

    async def ask(service: Harness, sid: str, key: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key}"}
        if route == "completions":
            body = {"model": "scripted", "prompt": "Say", "max_tokens": 200, "ignore_eos": True}
            return await service.client.post("/v1/completions", json=body, headers=headers)
        calls = {"calls": [call(out={"output": long})]}
        return await service.client.post(f"/v1/sessions/{sid}/calls", json=calls, headers=headers)

    async with running_service(limits=limited(tokens_per_minute=100)) as service:
        sid = await service.session()
        assert (await ask(service, sid, KEY_A)).status_code in {200, 202}
        refused = await ask(service, sid, KEY_A)
        assert refused.status_code == 429
        assert 30 <= retry_after_s(refused) <= 120
        other = (await service.client.post("/v1/sessions", json={}, headers=AS_B)).json()["session_id"]
        assert (await ask(service, other, KEY_B)).status_code in {200, 202}


async def test_streams_beyond_the_limit_are_refused_until_one_ends() -> None:
    async with running_service(limits=limited(max_streams=1)) as service:
        path = f"/v1/sessions/{await service.session()}/events"
        async with service.client.stream("GET", path) as first:
            assert first.status_code == 200
            refused = await service.client.get(path)
            assert refused.status_code == 429
            assert retry_after_s(refused) == 1
        status = 0
        for _ in range(50):
            async with service.client.stream("GET", path) as again:
                status = again.status_code
            if status == 200:
                break
            await asyncio.sleep(0.02)
        assert status == 200


async def test_a_tenant_runs_no_more_calls_at_a_time_than_it_may() -> None:
    async with running_service(limits=limited(max_running_calls=3)) as service:
        sid = await service.session()
        accepted = await service.submit(sid, *(call(f"{number} {{{{out}}}}") for number in range(40)))
        variables = [made["outputs"]["out"]["variable_id"] for made in accepted.json()["calls"]]
        most = 0
        for variable in variables:
            most = max(most, service.service.counters()["calls_running"])
            assert (await service.variable(sid, variable))["state"] == "ready"
    assert most <= 3


async def test_everybody_is_told_the_limits_that_hold_for_them(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_key_file(path, KeyFile(tenants={"a": TenantEntry(weight=2.0, limits={"max_sessions": 7})}))
    async with running_service(keys_file=path) as service:
        mine = (await service.client.get("/v1/limits")).json()
        theirs = (await service.client.get("/v1/limits", headers=AS_B)).json()
    assert (mine["max_sessions"], theirs["max_sessions"]) == (7, LIMITS.max_sessions)
    assert {"requests_per_s", "tokens_per_minute", "max_connections", "max_header_bytes"} <= mine.keys()


async def test_row_27_a_key_that_is_revoked_ends_its_streams_and_opens_nothing(tmp_path: Path) -> None:
    path, key = tmp_path / "keys.json", make_key()
    entry = KeyEntry(key_id="key_00000001", tenant="c", sha256=key[1], created=datetime.now(UTC))
    write_key_file(path, KeyFile(keys=(entry,)))
    headers = {"Authorization": f"Bearer {key[0]}"}
    async with running_service(keys_file=path, heartbeat_s=0.1) as service:
        client = service.client
        sid = (await client.post("/v1/sessions", json={}, headers=headers)).json()["session_id"]
        waiting = call("{{a}} {{out}}", a={"variable": "late"}, out={"output": {"variable": "o"}})
        await client.post(f"/v1/sessions/{sid}/calls", json={"calls": [waiting]}, headers=headers)
        patience = {"wait": LOOK_INTERVAL_S + 1}
        poll = asyncio.ensure_future(
            client.get(f"/v1/sessions/{sid}/variables/o", params=patience, headers=headers)
        )
        async with client.stream("GET", f"/v1/sessions/{sid}/events", headers=headers) as stream:
            assert stream.status_code == 200
            revoked = entry.model_copy(update={"revoked": datetime.now(UTC)})
            write_key_file(path, KeyFile(keys=(revoked,)))
            told = (await asyncio.wait_for(stream.aread(), 10)).decode()
        assert json.loads(told.rpartition("data: ")[2])["code"] == "unauthenticated"
        assert (await poll).status_code == 401
        assert (await client.get(f"/v1/sessions/{sid}", headers=headers)).status_code == 401
        assert (await client.get("/v1/sessions")).status_code == 200


async def test_row_140_a_broken_key_file_is_told_by_readyz_and_the_keys_stay(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_key_file(path, KeyFile())
    async with running_service(keys_file=path) as service:
        path.write_text("{")
        await asyncio.sleep(LOOK_INTERVAL_S)
        as_operator = {"Authorization": f"Bearer {KEY_ADMIN}"}
        ready = await service.client.get("/readyz", headers=as_operator)
    assert ready.status_code == 200
    assert "keys.json" in ready.json()["detail"]
