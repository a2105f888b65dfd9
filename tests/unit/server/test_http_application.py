"""The application over a service that only records what it is asked."""

import asyncio
import hashlib
import json
import logging
from typing import Any

import pytest
from server_fakes import SID, Exchange, FakeService, app_of, client_of, not_found

from parrot.errors import ConflictError
from parrot.server.config import ApiKey, ServerConfig
from parrot.types.ids import DEFAULT_TENANT, TenantId
from parrot.wire.answers import ErrorBody, VariableView

CALL = {"template": "Say {{out}}", "parameters": {"out": {"output": {}}}}
VARIABLE = f"/v1/sessions/{SID}/variables/x"

ROUTES = [
    ("POST", "/v1/sessions", {"name": "run"}, 201),
    ("GET", "/v1/sessions", None, 200),
    ("GET", f"/v1/sessions/{SID}", None, 200),
    ("DELETE", f"/v1/sessions/{SID}", None, 204),
    ("POST", f"/v1/sessions/{SID}/calls", {"calls": [CALL]}, 202),
    ("PUT", VARIABLE, {"value": "v"}, 200),
    ("GET", VARIABLE, None, 200),
    ("GET", f"{VARIABLE}/stream", None, 200),
    ("POST", f"/v1/sessions/{SID}/cancel", {}, 200),
    ("GET", f"/v1/sessions/{SID}/graph", None, 200),
    ("GET", f"/v1/sessions/{SID}/events", None, 200),
    ("GET", "/v1/models", None, 200),
    ("GET", "/v1/engines", None, 200),
    ("GET", "/v1/limits", None, 200),
    ("GET", "/healthz", None, 200),
    ("GET", "/readyz", None, 200),
    ("GET", "/metrics", None, 200),
    ("GET", "/openapi.json", None, 200),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), ROUTES)
async def test_every_route_of_the_contract_is_served(
    method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    async with client_of(app_of(FakeService())) as client:
        answer = await client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(("method", "path", "body", "status"), ROUTES)
async def test_with_keys_every_route_but_healthz_needs_one(
    method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    tenant = TenantId("t")
    service = FakeService()
    config = ServerConfig(keys=(ApiKey.of(tenant, "secret", admin=True),))
    async with client_of(app_of(service, config)) as client:
        without = await client.request(method, path, json=body)
        with_key = await client.request(method, path, json=body, headers={"Authorization": "Bearer secret"})
    assert with_key.status_code == status
    if path == "/healthz":
        assert without.status_code == 200
    else:
        assert without.status_code == 401
        assert without.headers["www-authenticate"].startswith("Bearer")
        assert all(asked[1] == tenant for asked in service.asked)


async def test_a_submission_is_given_to_the_service_with_its_key_and_hash() -> None:
    service = FakeService()
    body = json.dumps({"calls": [CALL]}).encode()
    headers = {"Content-Type": "application/json; charset=UTF-8", "Idempotency-Key": "k1"}
    async with client_of(app_of(service)) as client:
        answer = await client.post(f"/v1/sessions/{SID}/calls", content=body, headers=headers)
    assert answer.json()["calls"][0]["outputs"] == {"out": {"variable_id": "var_1", "name": None}}
    [(_, tenant, sid, request, key, body_hash)] = service.asked
    assert (tenant, sid, key) == (DEFAULT_TENANT, SID, "k1")
    assert (request.calls[0].template, body_hash) == ("Say {{out}}", hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize(
    ("view", "keys"),
    [
        (VariableView(variable_id="v", name=None, state="pending"), {"variable_id", "name", "state"}),
        (
            VariableView(variable_id="v", name="n", state="ready", value=""),
            {"variable_id", "name", "state", "value"},
        ),
        (
            VariableView(
                variable_id="v", name="n", state="failed", error=ErrorBody(code="cancelled", message="m")
            ),
            {"variable_id", "name", "state", "error"},
        ),
    ],
)
async def test_a_variable_has_a_value_only_when_ready_and_an_error_only_when_failed(
    view: VariableView, keys: set[str]
) -> None:
    async with client_of(app_of(FakeService(view=view))) as client:
        answer = await client.get(VARIABLE)
    assert set(answer.json()) == keys


async def test_an_error_of_the_service_becomes_its_status_and_the_envelope() -> None:
    async with client_of(app_of(FakeService(error=not_found()))) as client:
        answer = await client.get(f"/v1/sessions/{SID}", headers={"X-Request-Id": "tcp://evil:1"})
    assert answer.status_code == 404
    inside = answer.json()["error"]
    assert (inside["code"], inside["param"]) == ("not_found", "sid")
    assert inside["request_id"] == answer.headers["x-request-id"] != "tcp://evil:1"


async def test_a_fault_of_ours_is_500_without_a_word_of_it(caplog: pytest.LogCaptureFixture) -> None:
    service = FakeService(error=ZeroDivisionError("the secret prompt"))
    async with client_of(app_of(service)) as client:
        answer = await client.get(f"/v1/sessions/{SID}")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.json()["error"]["request_id"] in caplog.text


async def test_a_wrong_method_is_told_every_right_one() -> None:
    async with client_of(app_of(FakeService())) as client:
        session = await client.patch(f"/v1/sessions/{SID}", headers={"X-HTTP-Method-Override": "GET"})
        variable = await client.request("TRACE", VARIABLE)
    assert (session.status_code, session.headers["allow"]) == (405, "DELETE, GET")
    assert (variable.status_code, variable.headers["allow"]) == (405, "GET, PUT")


@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS"])
async def test_a_wrong_method_of_the_open_route_is_told_to_whoever_may_come_in(method: str) -> None:
    tenant = TenantId("t")
    keyed = ServerConfig(keys=(ApiKey.of(tenant, "secret"),))
    async with client_of(app_of(FakeService())) as client:
        answers = [await client.request(method, "/healthz")]
    async with client_of(app_of(FakeService(), keyed)) as client:
        answers.append(await client.request(method, "/healthz", headers={"Authorization": "Bearer secret"}))
        without = await client.request(method, "/healthz")
    assert [(answer.status_code, answer.headers.get("allow")) for answer in answers] == [(405, "GET")] * 2
    assert without.status_code == 401


@pytest.mark.parametrize("path", ["/", "//v1/sessions", "/v1/sessions/", "/v1", "/v1/../internal", "/docs"])
async def test_a_path_that_is_no_route_is_404_in_the_envelope(path: str) -> None:
    exchange = Exchange(path)
    await app_of(FakeService())(exchange.scope, exchange.receive, exchange.send)
    assert exchange.status == 404
    assert json.loads(exchange.body)["error"]["code"] == "no_route"


async def test_readiness_tells_why_not() -> None:
    async with client_of(app_of(FakeService(status="draining"))) as client:
        ready, alive = await client.get("/readyz"), await client.get("/healthz")
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "draining")
    assert (alive.status_code, alive.json()["status"]) == (200, "draining")
    assert alive.json()["pid"] > 1


async def test_a_waiter_goes_away_with_its_client() -> None:
    service = FakeService()
    exchange = Exchange(f"{VARIABLE}?wait=60&objective=latency")
    async with asyncio.TaskGroup() as group:
        group.create_task(app_of(service)(exchange.scope, exchange.receive, exchange.send))
        await service.waiting.wait()
        exchange.gone.set()
        await asyncio.wait_for(service.released.wait(), 1.0)
    assert exchange.sent == []
    assert [asked[4:] for asked in service.asked] == [(0.0, "latency"), (60.0, None)]


async def test_a_waiter_is_answered_when_the_service_shuts_down() -> None:
    service = FakeService()
    app = app_of(service)
    exchange = Exchange(f"{VARIABLE}?wait=60")
    async with asyncio.TaskGroup() as group:
        group.create_task(app(exchange.scope, exchange.receive, exchange.send))
        await service.waiting.wait()
        app.closing.set()
    assert json.loads(exchange.body)["state"] == "pending"
    assert service.released.is_set()


async def test_a_value_that_is_there_is_answered_without_waiting() -> None:
    ready = VariableView(variable_id="v", name="x", state="ready", value="42")
    service = FakeService(view=ready)
    async with client_of(app_of(service)) as client:
        answer = await client.get(f"{VARIABLE}?wait=60")
    assert answer.json()["value"] == "42"
    assert not service.waiting.is_set()


async def test_metrics_count_requests_by_template_and_no_path() -> None:
    async with client_of(app_of(FakeService())) as client:
        await client.get(f"/v1/sessions/{SID}")
        await client.get("/nowhere/secret-name")
        text = (await client.get("/metrics")).text
    assert 'parrot_http_request_seconds_count{route="/v1/sessions/{sid}",status="200"} 1.0' in text
    assert 'route="unmatched",status="404"' in text
    assert "parrot_calls_submitted_total 7.0" in text
    assert 'parrot_engine_owned_blocks{engine_id="engine-0",model="tiny"} 2.0' in text
    assert SID not in text
    assert "secret-name" not in text


async def test_the_access_line_has_the_template_and_never_a_value(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="parrot.server")
    async with client_of(app_of(FakeService())) as client:
        answer = await client.put(VARIABLE, json={"value": "canary-value"})
    assert "/v1/sessions/{sid}/variables/{ref}" in caplog.text
    assert answer.headers["x-request-id"] in caplog.text
    assert "canary-value" not in caplog.text
    assert SID not in caplog.text


async def test_the_openapi_document_describes_bodies_answers_and_errors() -> None:
    async with client_of(app_of(FakeService())) as client:
        document = (await client.get("/openapi.json")).json()
    submit = document["paths"]["/v1/sessions/{sid}/calls"]["post"]
    schemas = document["components"]["schemas"]
    body = submit["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert body == "#/components/schemas/SubmitCalls"
    assert {"SubmitCalls", "CallSpec", "CallsAccepted", "ErrorEnvelope", "VariableView"} <= set(schemas)
    assert {p["name"] for p in submit["parameters"]} == {"sid", "Idempotency-Key"}
    assert "4XX" in submit["responses"]
    references = {r.split('"')[0] for r in json.dumps(document).split("#/components/schemas/")[1:]}
    assert references <= set(schemas)


async def test_a_conflict_keeps_its_data() -> None:
    service = FakeService(error=ConflictError("m", code="already_set", data={"variable_id": "var_1"}))
    async with client_of(app_of(service)) as client:
        answer = await client.put(VARIABLE, json={"value": "v"})
    assert (answer.status_code, answer.json()["error"]["data"]) == (409, {"variable_id": "var_1"})
