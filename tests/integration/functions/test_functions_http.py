"""Registered semantic functions over HTTP: versions, calls by name, tenants, warm prompts, restarts."""

import asyncio
from typing import Any

import httpx2
import pytest
from core_harness import TENANT, get, open_session, running_service, submit
from http_harness import KEY_B, Harness, error_code

from parrot.core.limits import Limits
from parrot.core.service_config import ServiceConfig
from parrot.engine.scripted_config import ScriptedConfig
from parrot.errors import NotFoundError, OverLimitError
from parrot.store import MemoryStore
from parrot.wire.functions import FunctionSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")

PREFIX = "You are a careful translator who keeps to the tone of the original text. " * 6
SPEC: dict[str, Any] = {
    "template": PREFIX + "Tone: {{tone}}. Text: {{text}} Translation: {{translation}}",
    "inputs": {"tone": {"default": "dry"}},
    "outputs": {"translation": {"sampling": {"max_tokens": 9, "ignore_eos": True}}},
}


def by_name(ref: str, **parameters: object) -> dict[str, Any]:
    return {"function": ref, "parameters": parameters}


async def put(service: Harness, name: str, **fields: object) -> httpx2.Response:
    return await service.client.put(f"/v1/functions/{name}", json={**SPEC, **fields})


async def test_a_function_is_registered_read_listed_and_removed(http_service: Harness) -> None:
    answer = await put(http_service, "translate", description="From one tongue to another")
    assert answer.status_code == 201, answer.text
    view = answer.json()
    assert (view["name"], view["version"], view["versions"]) == ("translate", 1, [1])
    assert view["inputs"] == {"tone": {"default": "dry"}, "text": {"default": None}}
    assert list(view["outputs"]) == ["translation"]
    assert view["prefix_tokens"] > len(PREFIX) // 10
    assert (await http_service.client.get("/v1/functions/translate")).json() == view
    listed = (await http_service.client.get("/v1/functions")).json()["functions"]
    assert [function["name"] for function in listed] == ["translate"]
    assert (await http_service.client.delete("/v1/functions/translate")).status_code == 204
    gone = await http_service.client.get("/v1/functions/translate")
    assert (gone.status_code, error_code(gone)) == (404, "function_not_found")


async def test_another_text_is_another_version_and_the_same_text_is_not(http_service: Harness) -> None:
    assert (await put(http_service, "versioned")).json()["version"] == 1
    again = await put(http_service, "versioned")
    assert (again.status_code, again.json()["version"]) == (200, 1)
    second = await put(http_service, "versioned", template="Say {{text}} in {{tone}}: {{translation}}")
    assert (second.status_code, second.json()["versions"]) == (201, [1, 2])
    first = await http_service.client.get("/v1/functions/versioned@1")
    assert first.json()["template"] == SPEC["template"]
    assert (await http_service.client.get("/v1/functions/versioned@3")).status_code == 404


async def test_numbers_of_versions_do_not_come_again(http_service: Harness) -> None:
    await put(http_service, "removed")
    await http_service.client.delete("/v1/functions/removed")
    assert (await put(http_service, "removed")).json()["version"] == 2


async def test_a_call_by_name_gives_what_the_template_gives(http_service: Harness) -> None:
    await put(http_service, "named")
    plain = {
        "template": SPEC["template"],
        "parameters": {
            "tone": {"value": "dry"},
            "text": {"value": "Hallo"},
            "translation": {"output": SPEC["outputs"]["translation"]},
        },
    }
    expected = await http_service.run(plain, "translation")
    named = by_name("named@1", text={"value": "Hallo"})
    assert (await http_service.run(named, "translation"))["value"] == expected["value"]
    assert expected["state"] == "ready"


async def test_a_call_says_more_than_the_function(http_service: Harness) -> None:
    await put(http_service, "overridden")
    call = by_name(
        "overridden",
        text={"value": "Hallo"},
        tone={"value": "loud"},
        translation={"output": {"variable": "out", "sampling": {"max_tokens": 3}}},
    )
    sid = await http_service.session()
    assert (await http_service.submit(sid, call)).status_code == 202
    assert (await http_service.variable(sid, "out"))["state"] == "ready"
    graph = (await http_service.client.get(f"/v1/sessions/{sid}/graph")).json()
    assert graph["calls"][0]["tokens"]["output"] == 3


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        (by_name("nowhere"), 404, "function_not_found"),
        (by_name("refusing@9"), 404, "function_not_found"),
        (by_name("refusing@x"), 422, "bad_name"),
        (by_name("refusing"), 422, "unbound_placeholder"),
        (by_name("refusing", text={"value": ""}, other={"value": ""}), 422, "unused_parameter"),
        (by_name("refusing", text={"output": {}}), 422, "bad_parameter"),
        (by_name("refusing", text={"value": ""}, translation={"value": ""}), 422, "bad_parameter"),
        ({**by_name("refusing", text={"value": ""}), "template": "Say {{text}}"}, 422, "invalid"),
    ],
)
async def test_a_call_that_does_not_fit_is_refused(
    http_service: Harness, call: dict[str, Any], status: int, code: str
) -> None:
    await put(http_service, "refusing")
    sid = await http_service.session()
    answer = await http_service.submit(sid, call)
    assert (answer.status_code, error_code(answer)) == (status, code)
    await http_service.client.delete(f"/v1/sessions/{sid}")


@pytest.mark.parametrize(
    ("name", "fields", "code"),
    [
        ("no-name", {}, "bad_name"),
        ("pinned@2", {}, "bad_name"),
        ("bad", {"template": "Say {{text"}, "bad_placeholder"),
        ("bad", {"template": "Say {{text}}"}, "unused_parameter"),
        ("bad", {"inputs": {"nobody": {}}}, "unused_parameter"),
        ("bad", {"outputs": {"translation": {"variable": "x"}}}, "invalid"),
        ("bad", {"outputs": {}}, "no_output"),
        ("bad", {"surprise": 1}, "unknown_field"),
        ("bad", {"messages": [{"role": "user", "content": "{{text}}"}]}, "invalid"),
    ],
)
async def test_what_no_call_could_use_is_not_registered(
    http_service: Harness, name: str, fields: dict[str, Any], code: str
) -> None:
    answer = await put(http_service, name, **fields)
    assert (answer.status_code, error_code(answer)) == (422, code)
    assert (await http_service.client.get(f"/v1/functions/{name}")).status_code == 404


async def test_functions_of_others_are_not_there(http_service: Harness) -> None:
    await put(http_service, "private")
    other = {"Authorization": f"Bearer {KEY_B}"}
    for method, path in [
        ("GET", "/v1/functions/private"),
        ("DELETE", "/v1/functions/private"),
        ("POST", "/v1/functions/private/warm"),
    ]:
        answer = await http_service.client.request(method, path, headers=other)
        assert error_code(answer) == "function_not_found"
    assert (await http_service.client.get("/v1/functions", headers=other)).json() == {"functions": []}
    mine = await http_service.client.put("/v1/functions/private", json=SPEC, headers=other)
    assert mine.json()["version"] == 1


async def test_functions_are_listed_in_pages(http_service: Harness) -> None:
    for name in ("page_a", "page_b", "page_c"):
        await put(http_service, name)
    first = (await http_service.client.get("/v1/functions?limit=1&after=page_")).json()
    assert ([each["name"] for each in first["functions"]], first["next"]) == (["page_a"], "page_a")
    rest = (await http_service.client.get(f"/v1/functions?after={first['next']}")).json()
    assert [each["name"] for each in rest["functions"]][:2] == ["page_b", "page_c"]


async def test_a_warmed_prompt_is_there_before_the_first_call(http_service: Harness) -> None:
    template = "A beginning that nobody else has. " * 8 + SPEC["template"]
    view = (await put(http_service, "warmed", template=template)).json()
    answer = await http_service.client.post("/v1/functions/warmed/warm")
    assert answer.status_code == 200, answer.text
    warmed = answer.json()
    held = warmed["engines"][0]
    assert warmed["prefix_tokens"] == view["prefix_tokens"] == held["held_tokens"]
    assert held["num_filled_tokens"] > 50
    again = (await http_service.client.post("/v1/functions/warmed/warm")).json()
    assert again["engines"][0]["num_filled_tokens"] == 0
    sid = await http_service.session()
    call = by_name("warmed", text={"value": "x"}, translation={"output": {"variable": "out"}})
    await http_service.submit(sid, call)
    assert (await http_service.variable(sid, "out"))["state"] == "ready"
    tokens = (await http_service.client.get(f"/v1/sessions/{sid}/graph")).json()["calls"][0]["tokens"]
    assert tokens["shared"] >= view["prefix_tokens"]
    assert tokens["ahead"] == tokens["shared"]


# ── the service itself ──────────────────────────────────────────────────────────────────────────────────────


async def test_functions_and_their_calls_survive_a_restart() -> None:
    store = MemoryStore()
    config = ServiceConfig(restart_delay_s=0.01)
    spec = FunctionSpec.model_validate(SPEC)
    async with running_service(store=_Kept(store), config=config) as service:
        await service.functions.register(TENANT, "kept", spec)
        await service.functions.register(TENANT, "dropped", spec)
        await service.functions.remove(TENANT, "dropped")
        sid = await open_session(service)
        call = by_name("kept", text={"value": "Hallo"}, translation={"output": {"variable": "out"}})
        await submit(service, sid, call)
        value = (await get(service, sid, "out")).value
    async with running_service(store=store, config=config) as service:
        assert service.functions.read(TENANT, "kept@1").prefix_tokens
        with pytest.raises(NotFoundError):
            service.functions.read(TENANT, "dropped")
        assert (await get(service, sid, "out")).value == value
        assert (await service.functions.register(TENANT, "dropped", spec)).view.version == 2
        assert [view.session_id for view in service.list_sessions(TENANT).sessions] == [sid]


class _Kept(MemoryStore):
    """A store that outlives its service."""

    def __init__(self, store: MemoryStore) -> None:
        self.__dict__ = store.__dict__

    async def close(self) -> None:
        """Stay open."""


async def test_a_function_that_says_warm_is_filled_by_itself() -> None:
    async with running_service(ScriptedConfig(), ScriptedConfig()) as service:
        spec = FunctionSpec.model_validate({**SPEC, "warm": True})
        view = (await service.functions.register(TENANT, "warm", spec)).view
        async with asyncio.timeout(30):
            while service.counters()["ahead_tokens"] < 2 * (view.prefix_tokens or 0):
                await asyncio.sleep(0.01)
        answer = await service.functions.warm(TENANT, "warm")
        assert [engine.num_filled_tokens for engine in answer.engines] == [0, 0]
        assert {engine.held_tokens for engine in answer.engines} == {view.prefix_tokens}


async def test_a_tenant_registers_no_more_than_it_may() -> None:
    limits = Limits(max_functions=2)
    async with running_service(limits=limits) as service:
        spec = FunctionSpec.model_validate(SPEC)
        await service.functions.register(TENANT, "one", spec)
        await service.functions.register(TENANT, "two", spec)
        with pytest.raises(OverLimitError):
            await service.functions.register(TENANT, "three", spec)
        await service.functions.remove(TENANT, "one")
        assert (await service.functions.register(TENANT, "three", spec)).created
