"""Prefixes are shared inside a tenant, and not between tenants unless the operator published them."""

from dataclasses import replace

import httpx2
import pytest
from http_harness import CONTEXT_TOKENS, KEY_A, KEY_B, Harness, running_service

from parrot.core.service_config import ServiceConfig
from parrot.engine.scripted_config import ScriptedConfig

PREFIX = "You are a careful clerk of the county court, and you answer in plain words. " * 12
ENGINE = ScriptedConfig(context_tokens=CONTEXT_TOKENS)


async def shared_tokens(service: Harness, key: str, prompt: str) -> int:
    """How many tokens of a prompt a call of one tenant found ready."""
    async with httpx2.AsyncClient(
        base_url=service.client.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=30
    ) as client:
        sid = (await client.post("/v1/sessions", json={})).json()["session_id"]
        call = {"template": prompt + "{{out}}", "parameters": {"out": {"output": {"variable": "v"}}}}
        accepted = await client.post(f"/v1/sessions/{sid}/calls", json={"calls": [call]})
        assert accepted.status_code == 202, accepted.text
        view = await client.get(f"/v1/sessions/{sid}/variables/v", params={"wait": 20})
        assert view.json()["state"] == "ready"
        (node,) = (await client.get(f"/v1/sessions/{sid}/graph")).json()["calls"]
        return int(node["tokens"]["shared"])


async def cached_tokens(service: Harness, key: str, route: str, **body: object) -> int:
    """The same of a request without structure."""
    answer = await service.client.post(
        route, json={"model": "scripted", "max_tokens": 4, **body}, headers={"Authorization": f"Bearer {key}"}
    )
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


async def test_who_said_it_before_finds_it_and_nobody_else_does() -> None:
    async with running_service(engine=ENGINE) as service:
        assert await shared_tokens(service, KEY_A, PREFIX) == 0
        again, other = [await shared_tokens(service, key, PREFIX) for key in (KEY_A, KEY_B)]
    assert again > 100
    assert other == 0


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/completions", {"prompt": PREFIX}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "system", "content": PREFIX}, {"role": "user", "content": "?"}]},
        ),
    ],
)
async def test_without_structure_too(route: str, body: dict[str, object]) -> None:
    async with running_service(engine=ENGINE) as service:
        assert await cached_tokens(service, KEY_A, route, **body) == 0
        again, other = [await cached_tokens(service, key, route, **body) for key in (KEY_A, KEY_B)]
    assert again > 100
    assert other == 0


async def test_what_the_operator_published_is_shared_and_what_follows_is_not() -> None:
    config = ServiceConfig(salt="s", shared_prefixes=(PREFIX,))
    async with running_service(engine=ENGINE, service_config=config) as service:
        private = PREFIX + "The file of A is number 4711, which nobody else may know about. " * 8
        assert await shared_tokens(service, KEY_A, private) == 0
        again, other = [await shared_tokens(service, key, private) for key in (KEY_A, KEY_B)]
        publishes = await shared_tokens(service, KEY_B, PREFIX + "Other words. ")
    assert again > other
    assert other == publishes > 100


async def test_without_structure_what_is_published_is_shared_too() -> None:
    config = ServiceConfig(salt="s", shared_prefixes=(PREFIX,))
    messages = [
        {"role": "system", "content": PREFIX},
        {"role": "user", "content": "My own secret words. " * 20},
    ]
    async with running_service(engine=ENGINE, service_config=config) as service:
        chat = "/v1/chat/completions"
        assert await cached_tokens(service, KEY_A, chat, messages=messages) == 0
        again, other = [await cached_tokens(service, key, chat, messages=messages) for key in (KEY_A, KEY_B)]
    assert again > other > 100


async def test_a_request_cannot_choose_its_salt() -> None:
    async with running_service(engine=replace(ENGINE, seed=1)) as service:
        salted = {"cache_salt": "x"}
        session = await service.client.post("/v1/sessions", json=salted)
        sid = await service.session()
        call = {"template": "a {{out}}", "parameters": {"out": {"output": {}}}}
        calls = [
            await service.client.post(f"/v1/sessions/{sid}/calls", json=body)
            for body in (
                {"calls": [call], **salted},
                {"calls": [{**call, **salted}]},
                {"calls": [{**call, "parameters": {"out": {"output": {"sampling": salted}}}}]},
            )
        ]
    assert [answer.status_code for answer in (session, *calls)] == [422] * 4
