"""One tenant asks for another's things, on every route there is: it gets what it would get if they were not
there, byte for byte.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from http_harness import KEY_ADMIN, KEY_B, Harness, call

from parrot.wire.answers import ENGINE_LOAD

pytestmark = pytest.mark.asyncio(loop_scope="module")

AS_B = {"Authorization": f"Bearer {KEY_B}"}
AS_ADMIN = {"Authorization": f"Bearer {KEY_ADMIN}"}
OWN_TIME = re.compile(rb'"(created_at|created)":[0-9.]+|(cmpl-|chatcmpl-|resp_)?[0-9a-f]{32}')

UNKNOWN = {
    "sessions": "ses_" + "0" * 32,
    "variables": "var_" + "0" * 32,
    "functions": "nobodys",
    "calls": "call_" + "0" * 32,
    "responses": "resp_" + "0" * 32,
}
"""Ids as they are, of things that are not there, by what stands before them in a path."""

FOR_ALL = {"/v1/models/{model}"}
"""Routes with a path parameter that name nothing of a tenant: what the service serves is the same for all."""

BODIES: Mapping[str, object] = {
    "SessionCreate": {},
    "SubmitCalls": {"calls": [call()]},
    "RunCreate": {"calls": [call()]},
    "RunRequest": {"calls": [call()]},
    "SetVariable": {"value": "mine"},
    "CancelRequest": {},
    "FunctionSpec": {"template": "Say {{out}}", "outputs": {"out": {}}},
    "CompletionBody": {"model": "scripted", "prompt": "Say", "max_tokens": 2},
    "ChatBody": {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
}
"""A body for each model in the document of the interface."""


@dataclass(kw_only=True)
class Things:
    """What tenant A has."""

    sid: str
    variables: list[str]
    calls: list[str]
    functions: list[str] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)

    def ids(self, kind: str) -> list[str]:
        """What could stand in a path after `kind`."""
        return {
            "sessions": [self.sid],
            "variables": ["doc", *self.variables],
            "functions": self.functions,
            "responses": self.responses,
        }[kind]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def things(http_service: Harness) -> AsyncIterator[Things]:
    """Tenant A has a session in which calls are done, fail and wait, and a registered function."""
    client, sid = http_service.client, await http_service.session(name="of A", metadata={"of": "A"})
    accepted = await http_service.submit(
        sid,
        call("#text{{out}}", out={"output": {"variable": "doc"}}),
        call("{{never}} {{out}}", never={"variable": "never"}),
    )
    await http_service.variable(sid, "doc")
    made = accepted.json()["calls"]
    function = await client.put("/v1/functions/mine", json=BODIES["FunctionSpec"])
    assert function.status_code in {200, 201}, function.text
    response = await client.post("/v1/responses", json={"model": "scripted", "input": "Hi", "store": True})
    yield Things(
        sid=sid,
        variables=[each["outputs"]["out"]["variable_id"] for each in made],
        calls=[each["call_id"] for each in made],
        functions=["mine"],
        responses=[response.json()["id"]],
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def routes(http_service: Harness) -> list[tuple[str, str, Any]]:
    """Every route with a path parameter that names something of a tenant, and a body for it."""
    document = (await http_service.client.get("/openapi.json")).json()
    return [
        (method.upper(), path, _body(operation))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "{" in path and path not in FOR_ALL
    ]


def _body(operation: Mapping[str, Any]) -> object:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    return None if content is None else BODIES[content["schema"]["$ref"].rpartition("/")[2]]


def _kinds(path: str) -> dict[str, str]:
    """The parameters of a path, and what each stands for."""
    return {parameter: kind for kind, parameter in re.findall(r"/(\w+)/{(\w+)}", path)}


def _fills(path: str, things: Things) -> Iterator[dict[str, str]]:
    """A's ids for a path's parameters: all A's, and A's session with names that are nobody's."""
    found = {parameter: things.ids(kind) for parameter, kind in _kinds(path).items()}
    for number in range(max(map(len, found.values()))):
        yield {parameter: ids[number % len(ids)] for parameter, ids in found.items()}
    yield {p: things.sid if k == "sessions" else UNKNOWN[k] for p, k in _kinds(path).items()}


def _unknown(path: str) -> dict[str, str]:
    return {parameter: UNKNOWN[kind] for parameter, kind in _kinds(path).items()}


def _seen(answer: httpx2.Response, used: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
    """An answer without what is of this one request: its id, its time, and the ids that it named itself."""
    body = answer.content
    for own in used.values():
        body = body.replace(own.encode(), b"ID")
    body = OWN_TIME.sub(b"OWN", body)
    changing = {"date", "x-request-id", "location", "content-length"}
    headers = {name: value for name, value in answer.headers.items() if name not in changing}
    assert int(answer.headers.get("content-length", 0)) == len(answer.content)
    return answer.status_code, headers, body


async def _ask(
    service: Harness, method: str, path: str, ids: Mapping[str, str], body: object
) -> tuple[int, dict[str, str], bytes]:
    answer = await service.client.request(method, path.format(**ids), json=body, headers=AS_B)
    return _seen(answer, ids)


async def _state(service: Harness, things: Things) -> tuple[Any, ...]:
    client, base = service.client, f"/v1/sessions/{things.sid}"
    return (
        (await client.get(base)).json(),
        (await client.get(f"{base}/graph")).json(),
        (await client.get("/v1/functions/mine")).json(),
    )


async def _settled_state(service: Harness, things: Things) -> tuple[Any, ...]:
    """A's things once nothing of them is under way any more: what was set going goes on for a moment."""
    before = await _state(service, things)
    async with asyncio.timeout(60):
        while True:
            await asyncio.sleep(0.2)
            now = await _state(service, things)
            if now == before:
                return now
            before = now


async def test_every_route_with_anothers_ids_answers_as_if_nothing_were_there(
    http_service: Harness, things: Things, routes: list[tuple[str, str, Any]]
) -> None:
    before = await _settled_state(http_service, things)
    num_probes = 0
    for method, path, body in routes:
        if (method, path) == ("PUT", "/v1/functions/{ref}"):
            continue  # whatever A has, B registers its own: below
        for ids in _fills(path, things):
            foreign = await _ask(http_service, method, path, ids, body)
            missing = await _ask(http_service, method, path, _unknown(path), body)
            assert foreign == missing, (method, path, ids)
            assert foreign[0] == 404, (method, path, ids)
            num_probes += 1
    assert num_probes >= 25
    assert await _state(http_service, things) == before


async def test_a_name_that_another_has_is_free(http_service: Harness, things: Things) -> None:
    spec = BODIES["FunctionSpec"]
    taken, free = [
        await http_service.client.put(f"/v1/functions/{name}", json=spec, headers=AS_B)
        for name in ("mine", "yours")
    ]
    assert _seen(taken, {"name": "mine"}) == _seen(free, {"name": "yours"})
    assert taken.is_success
    for name in ("mine", "yours"):
        await http_service.client.delete(f"/v1/functions/{name}", headers=AS_B)
    assert (await http_service.client.get("/v1/functions/mine")).status_code == 200


async def test_lists_have_ones_own_things_only(http_service: Harness, things: Things) -> None:
    document = (await http_service.client.get("/openapi.json")).json()
    lists = [
        path for path, operations in document["paths"].items() if "{" not in path and "get" in operations
    ]
    assert {"/v1/sessions", "/v1/functions"} <= set(lists)
    mine = {things.sid, *things.variables, *things.calls, "of A", '"mine"'}
    for path in lists:
        text = (await http_service.client.get(path, headers=AS_B)).text
        assert not [word for word in mine if word in text], path


async def test_ids_of_another_in_a_body_are_unknown_ids(http_service: Harness, things: Things) -> None:
    client = http_service.client
    sid = (await client.post("/v1/sessions", json={}, headers=AS_B)).json()["session_id"]
    bodies: list[tuple[str, Callable[[str, str], dict[str, object]]]] = [
        ("cancel", lambda v, c: {"variables": [v]}),
        ("cancel", lambda v, c: {"calls": [c]}),
        ("calls", lambda v, c: {"calls": [call("{{a}} {{out}}", a={"variable": v})]}),
    ]
    for route, body in bodies:
        for variable, made in zip(things.variables, things.calls, strict=True):
            foreign, missing = [
                _seen(
                    await client.post(f"/v1/sessions/{sid}/{route}", json=body(*ids), headers=AS_B),
                    {"v": ids[0], "c": ids[1]},
                )
                for ids in ((variable, made), (UNKNOWN["variables"], UNKNOWN["calls"]))
            ]
            assert foreign == missing
            assert foreign[0] == 404
    for reference in things.variables:
        own = await client.get(f"/v1/sessions/{sid}/variables/{reference}", headers=AS_B)
        assert own.status_code == 404
        put = await client.put(f"/v1/sessions/{sid}/variables/{reference}", json={"value": "x"}, headers=AS_B)
        assert put.status_code == 404
    function = await client.post(
        f"/v1/sessions/{sid}/calls",
        json={"calls": [{"function": "mine", "parameters": {}}]},
        headers=AS_B,
    )
    assert function.status_code == 404


async def test_an_idempotency_key_is_ones_own(http_service: Harness, things: Things) -> None:
    client, key = http_service.client, {"Idempotency-Key": "the-same-key"}
    mine = await http_service.submit(things.sid, call("one {{out}}"), headers=key)
    sid = (await client.post("/v1/sessions", json={}, headers=AS_B)).json()["session_id"]
    theirs = await client.post(
        f"/v1/sessions/{sid}/calls", json={"calls": [call("two {{out}}")]}, headers={**AS_B, **key}
    )
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.json()["calls"][0]["call_id"] != theirs.json()["calls"][0]["call_id"]


async def test_what_engines_do_is_told_to_operators_only(http_service: Harness) -> None:
    tenant, operator = [
        (await http_service.client.get("/v1/engines", headers=headers)).json() for headers in (AS_B, AS_ADMIN)
    ]
    assert (tenant["has_loads"], operator["has_loads"]) == (False, True)
    hidden = operator["engines"][0].keys() - tenant["engines"][0].keys()
    assert hidden == ENGINE_LOAD
    assert tenant["engines"][0]["state"] == "up"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_row_32_what_is_for_operators_does_not_exist_for_tenants(
    method: str, http_service: Harness
) -> None:
    client = http_service.client
    there = await client.request(method, "/metrics", headers=AS_B)
    nowhere = await client.request(method, "/internal/engines", headers=AS_B)
    assert _seen(there, {}) == _seen(nowhere, {})
    assert there.status_code == 404
    assert (await client.get("/metrics", headers=AS_ADMIN)).status_code == 200


@pytest.mark.parametrize(
    "path", ["//metrics", "/metrics/", "/v1/../metrics", "/%6detrics", "/metrics%00", "/METRICS"]
)
async def test_row_15_no_way_of_writing_a_path_gets_around_the_route(
    path: str, http_service: Harness
) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY_B}\r\nConnection: close\r\n\r\n"
    answer = await http_service.raw(request.encode())
    assert answer.split(b"\r\n")[0].split(b" ")[1] == b"404"
    assert b"parrot_" not in answer


@pytest.mark.parametrize(
    "path",
    ["//healthz", "/healthz/../v1/sessions", "/healthz%2f..%2fv1%2fsessions", "/healthz/", "/v1/sessions"],
)
async def test_only_the_open_route_itself_is_open(path: str, http_service: Harness) -> None:
    answer = await http_service.raw(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b"\r\n")[0].split(b" ")[1] == b"401"
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]["code"] == "unauthenticated"
