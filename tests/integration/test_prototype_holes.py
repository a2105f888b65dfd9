"""What the research prototype got wrong, one test for each of its holes R1 to R14."""

import asyncio
import marshal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from core_harness import call as core_call
from core_harness import get, open_session, submit
from core_harness import running_service as running_core
from http_harness import Harness, call, error_code, json_bytes, output, running_service

import parrot
from parrot.core.limits import Limits
from parrot.engine.scripted import ScriptedEngine
from parrot.engine.scripted_config import ScriptedConfig
from parrot.ports.engine import GenerateChunk, GenerateRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOADED: list[str] = []
"""Audit events of code that is loaded; what is appended here says that somebody's bytes became code."""


def _note_loading(event: str, _arguments: object) -> None:
    if event in {"marshal.loads", "pickle.find_class", "os.system"}:
        LOADED.append(event)


sys.addaudithook(_note_loading)


async def test_r1_code_in_a_request_is_an_unknown_field_and_never_loaded(http_service: Harness) -> None:
    payload = b64encode(marshal.dumps(compile("__import__('os').getpid()", "x", "exec"))).decode()
    sid = await http_service.session()
    LOADED.clear()
    for field in ("func_code", "code", "func_body", "pickle"):
        answer = await http_service.submit(sid, {**call(), field: payload})
        assert (answer.status_code, error_code(answer)) == (422, "unknown_field")
    assert LOADED == []


async def test_r2_a_native_function_that_blocks_stops_nobody_else() -> None:
    @parrot.native_function
    def slow(text: str) -> str:
        time.sleep(2.5)
        return text

    async with parrot.connect(engine="scripted"):
        worst_s, last_s = 0.0, time.monotonic()
        waiting = asyncio.ensure_future(slow(text="x").get())
        while not waiting.done():
            await asyncio.sleep(0.01)
            worst_s, last_s = max(worst_s, time.monotonic() - last_s), time.monotonic()
        assert await waiting == "x"
    assert worst_s < 2.0


class FaultyEngine(ScriptedEngine):
    """An engine with a fault of its own, which no error of the tree describes."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateChunk, None]:
        if "fault" in self.tokenizer.decode(request.token_ids):
            raise ZeroDivisionError("a fault of ours")
        async for chunk in super().generate(request):
            yield chunk


async def test_r3_an_exception_nobody_expected_fails_one_call_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("parrot.engine.launch.ScriptedEngine", FaultyEngine)
    async with running_core(ScriptedConfig()) as service:
        sid = await open_session(service)
        await submit(service, sid, core_call("a fault {{out}}", "bad"), core_call("fine {{out}}", "good"))
        bad, good = await get(service, sid, "bad"), await get(service, sid, "good")
        assert bad.error is not None
        assert (bad.error.code, good.state) == ("internal", "ready")
        assert service.health().status == "ok"


async def test_r4_every_route_but_the_health_check_needs_a_key(http_service: Harness) -> None:
    document = (await http_service.client.get("/openapi.json")).json()
    open_routes = []
    for path, methods in document["paths"].items():
        for method in methods:
            concrete = path.replace("{", "").replace("}", "")
            answer = await http_service.client.request(
                method, concrete, headers={"Authorization": "Bearer nobody's"}
            )
            if answer.status_code != 401:
                open_routes.append(path)
    assert len(document["paths"]) >= 10
    assert open_routes == ["/healthz"]


async def test_r5_session_ids_cannot_be_guessed_and_are_not_used_again(http_service: Harness) -> None:
    ids = []
    for _ in range(50):
        ids.append(await http_service.session())
        await http_service.client.delete(f"/v1/sessions/{ids[-1]}")
    assert len(set(ids)) == 50
    assert min(len(sid.partition("_")[2]) for sid in ids) >= 32
    assert (await http_service.client.get(f"/v1/sessions/{ids[0]}")).status_code == 410


async def test_r6_nobody_registers_an_engine_or_names_an_address(http_service: Harness) -> None:
    body = {"name": "evil", "address": "http://169.254.169.254/"}
    for path in ("/register_engine", "/engine_heartbeat", "/v1/engines", "/internal/engines"):
        answer = await http_service.client.post(path, json=body)
        assert answer.status_code in (404, 405), path
    document = json_bytes((await http_service.client.get("/openapi.json")).json())
    assert b"address" not in document


async def test_r7_a_constant_beginning_is_shared_within_a_tenant_and_not_across(
    http_service: Harness,
) -> None:
    text = "The same long beginning of a prompt, word by word. " * 20
    shared: dict[str, list[int]] = {}
    for tenant, key in (("a", "key-of-a"), ("b", "key-of-b")):
        headers = {"Authorization": f"Bearer {key}"}
        post, read = http_service.client.post, http_service.client.get
        for number in range(2):
            sid = (await post("/v1/sessions", json={}, headers=headers)).json()["session_id"]
            template = text + f"{{{{x}}}} {number} {{{{out}}}}"
            calls = [call(template, x={"value": "x"}, out={"output": {"variable": "o"}})]
            await post(f"/v1/sessions/{sid}/calls", json={"calls": calls}, headers=headers)
            await read(f"/v1/sessions/{sid}/variables/o", params={"wait": 20}, headers=headers)
            graph = (await read(f"/v1/sessions/{sid}/graph", headers=headers)).json()
            shared.setdefault(tenant, []).append(graph["calls"][0]["tokens"]["shared"])
    assert [numbers[0] for numbers in shared.values()] == [0, 0]
    assert min(numbers[1] for numbers in shared.values()) > 100


async def test_r8_bad_requests_do_not_cost_engines(http_service: Harness) -> None:
    bad = output(transforms=[{"type": "json", "pointer": "/a"}])
    states = {(await http_service.run(bad))["state"] for _ in range(20)}
    engine = (await http_service.client.get("/v1/engines")).json()["engines"][0]
    assert states == {"failed"}
    assert (engine["state"], engine["num_restarts"]) == ("up", 0)


async def test_r9_who_waits_for_a_value_that_will_never_come_is_told(http_service: Harness) -> None:
    sid = await http_service.session()
    failing = call(
        "#text{{out}}", out={"output": {"variable": "a", "transforms": [{"type": "json", "pointer": ""}]}}
    )
    after = call("{{a}} {{out}}", a={"variable": "a"}, out={"output": {"variable": "b"}})
    waiting = asyncio.ensure_future(http_service.submit(sid, failing, after))
    assert (await waiting).status_code == 202
    async with asyncio.timeout(30):
        view = await http_service.variable(sid, "b")
    assert (view["state"], view["error"]["code"]) == ("failed", "upstream_failed")


async def test_r10_a_users_mistake_is_not_a_fault_of_the_service(http_service: Harness) -> None:
    sid = await http_service.session()
    bodies: tuple[object, ...] = ({"calls": []}, {"calls": [{}]}, {"calls": [call("{{a}}")]}, [], {"x": 1})
    for body in bodies:
        answer = await http_service.client.post(f"/v1/sessions/{sid}/calls", json=body)
        assert 400 <= answer.status_code < 500
        assert error_code(answer)
    assert (await http_service.client.get(f"/v1/sessions/{sid}")).status_code == 200


async def test_r11_the_number_of_sessions_is_bounded_as_it_says() -> None:
    async with running_service(limits=Limits(max_sessions=3)) as service:
        opened = [await service.client.post("/v1/sessions", json={}) for _ in range(4)]
    assert [answer.status_code for answer in opened] == [201, 201, 201, 429]
    assert error_code(opened[-1]) == "over_limit"
    assert int(opened[-1].headers["retry-after"]) > 0


async def test_r12_sampling_is_bounded_and_nobody_changes_it(http_service: Harness) -> None:
    sid = await http_service.session()
    for sampling in ({"max_tokens": 10**9}, {"n": 10**6}, {"best_of": 9}, {"logit_bias": {"1": 100}}):
        answer = await http_service.submit(sid, output(sampling=sampling))
        assert answer.status_code == 422, sampling
    same = output(sampling={"max_tokens": 30, "stop": ["zzz"], "seed": 1})
    values = {(await http_service.run(same))["value"] for _ in range(3)}
    assert len(values) == 1


async def test_r13_deleting_a_session_stops_what_runs_in_it() -> None:
    slow = ScriptedConfig(decode_step_s=0.05)
    async with running_service(engine=slow) as service:
        sid = await service.session()
        sampling = {"max_tokens": 1000, "ignore_eos": True}
        await service.submit(sid, *(output(sampling=sampling) for _ in range(5)))
        async with asyncio.timeout(10):
            while service.service.engines().engines[0].num_owned_blocks == 0:
                await asyncio.sleep(0.01)
        assert (await service.client.delete(f"/v1/sessions/{sid}")).status_code == 204
        async with asyncio.timeout(30):
            while service.service.counters()["calls_running"] or _owned(service):
                await asyncio.sleep(0.01)
        assert _owned(service) == 0


def _owned(service: Harness) -> int:
    return service.service.engines().engines[0].num_owned_blocks


SET_TWICE = """
from parrot.core.graph import ApplicationGraph
from parrot.core.limits import Limits
from parrot.errors import ConflictError

graph = ApplicationGraph(Limits())
graph.put("v", "x", "first")
try:
    graph.check_put("v", "second")
except ConflictError as error:
    print(error.code)
"""


async def test_r14_a_second_value_is_refused_also_when_python_drops_assertions(http_service: Harness) -> None:
    sid = await http_service.session()
    path = f"/v1/sessions/{sid}/variables/x"
    first = await http_service.client.put(path, json={"value": "1"})
    second = await http_service.client.put(path, json={"value": "2"})
    optimised = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-O", "-c", SET_TWICE], check=True, capture_output=True, text=True
    )
    assert (first.status_code, second.status_code, error_code(second)) == (200, 409, "already_set")
    assert optimised.stdout.strip() == "already_set"


async def test_every_hole_has_its_test() -> None:
    names: dict[str, Any] = globals()
    found = {name.split("_")[1] for name in names if name.startswith("test_r")}
    assert found == {f"r{number}" for number in range(1, 15)}
