"""`POST /v1/run` and `POST /v1/sessions/{sid}/run`: a session, its calls and its values in one request."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from core_harness import TENANT
from core_harness import running_service as core_service
from http_harness import KEY_B, Harness, call, error_code, running_service

from parrot.core.limits import Limits
from parrot.errors import GoneError
from parrot.store import StoreConfig, open_store
from parrot.wire.runs import RunCreate

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAIN = [
    call("#text{{out}}", out={"output": {"variable": "a"}}),
    call("{{a}} #json{{out}}", a={"variable": "a"}, out={"output": {"variable": "b"}}),
]
FOREVER = [call("{{never}} {{out}}", never={"variable": "never"}, out={"output": {"variable": "late"}})]

Event = tuple[str, dict[str, Any]]


def events_of(answer: httpx2.Response) -> list[Event]:
    """The events of a whole stream."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    pieces = [piece.split("\n") for piece in answer.text.split("\n\n") if piece.startswith("event:")]
    return [
        (lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))) for lines in pieces
    ]


async def run(service: Harness, body: Mapping[str, object], **headers: str) -> list[Event]:
    return events_of(await service.client.post("/v1/run", json=body, headers=headers))


@asynccontextmanager
async def following(service: Harness, body: Mapping[str, object]) -> AsyncIterator[AsyncIterator[Event]]:
    """The events of a run as they come."""

    async def events(answer: httpx2.Response) -> AsyncIterator[Event]:
        async for event in httpx2.EventSource(answer):
            yield event.event, json.loads(event.data)

    async with service.client.stream("POST", "/v1/run", json=body) as answer:
        assert answer.status_code == 200
        yield events(answer)


async def test_one_request_opens_submits_and_brings_the_values(http_service: Harness) -> None:
    body = {"session": {"name": "one"}, "calls": CHAIN, "follow": [{"variable": "b"}, {"variable": "a"}]}
    (name, accepted), *values = await run(http_service, body)
    assert name == "accepted"
    assert (accepted["session"]["name"], accepted["session"]["state"]) == ("one", "open")
    assert [one["outputs"]["out"]["name"] for one in accepted["calls"]] == ["a", "b"]
    assert {event for event, _ in values} == {"ready"}
    assert {view["name"]: view["value"] for _, view in values}["a"] == "no JSON at all"
    assert len(values) == 2
    sid = accepted["session"]["session_id"]
    assert (await http_service.variable(sid, "b"))["state"] == "ready"


async def test_values_given_with_the_calls_are_there_for_them(http_service: Harness) -> None:
    asks = call("{{doc}}{{out}}", doc={"variable": "doc"}, out={"output": {"variable": "a"}})
    body = {
        "variables": [{"variable": "doc", "value": "#text"}, {"variable": "spare", "value": "é"}],
        "calls": [asks],
        "follow": [{"variable": "a"}, {"variable": "doc"}],
    }
    (_, accepted), *values = await run(http_service, body)
    assert [one["name"] for one in accepted["variables"]] == ["doc", "spare"]
    told = {view["name"]: view["value"] for _, view in values}
    assert told == {"a": "no JSON at all", "doc": "#text"}
    sid = accepted["session"]["session_id"]
    assert (await http_service.variable(sid, accepted["variables"][1]["variable_id"]))["value"] == "é"


async def test_deltas_of_a_followed_variable_joined_are_its_value(http_service: Harness) -> None:
    body = {"calls": CHAIN, "follow": [{"variable": "a", "deltas": True, "objective": "latency"}]}
    (_, accepted), *rest = await run(http_service, body)
    told = "".join(data["text"] for name, data in rest if name == "delta")
    assert (rest[-1][0], rest[-1][1]["value"]) == ("ready", told)
    assert {data["variable_id"] for _, data in rest} == {
        accepted["calls"][0]["outputs"]["out"]["variable_id"]
    }


async def test_a_run_goes_on_in_a_session(http_service: Harness) -> None:
    sid = await http_service.session()
    first = await http_service.client.post(f"/v1/sessions/{sid}/run", json={"calls": CHAIN[:1]})
    assert [name for name, _ in events_of(first)] == ["accepted"]
    body = {"calls": CHAIN[1:], "follow": [{"variable": "b"}, {"variable": "a"}]}
    second = events_of(await http_service.client.post(f"/v1/sessions/{sid}/run", json=body))
    assert [name for name, _ in second] == ["accepted", "ready", "ready"]
    again = events_of(await http_service.client.post(f"/v1/sessions/{sid}/run", json={"follow": []}))
    assert again[0][1]["session"]["calls"]["done"] == 2


async def test_one_key_opens_one_run_however_often_it_is_sent(http_service: Harness) -> None:
    body = {"calls": CHAIN, "follow": [{"variable": "b"}]}
    runs = await asyncio.gather(*(run(http_service, body, **{"Idempotency-Key": "r1"}) for _ in range(20)))
    other = await http_service.client.post("/v1/run", json={}, headers={"Idempotency-Key": "r1"})
    assert len({events[0][1]["session"]["session_id"] for events in runs}) == 1
    assert len({json.dumps(events[0][1]["calls"]) for events in runs}) == 1
    assert {events[-1][1]["state"] for events in runs} == {"ready"}
    assert (other.status_code, error_code(other)) == (422, "idempotency_mismatch")


async def test_a_key_in_a_session_is_good_for_one_submission(http_service: Harness) -> None:
    sid = await http_service.session()
    key = {"Idempotency-Key": "r1"}
    post = http_service.client.post
    answers = [
        events_of(await post(f"/v1/sessions/{sid}/run", json={"calls": CHAIN}, headers=key)) for _ in range(2)
    ]
    assert answers[0][0][1]["calls"] == answers[1][0][1]["calls"]
    assert answers[1][0][1]["session"]["num_variables"] == 2


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"call": []}, 422, "unknown_field", "call"),
        ({"session": {"deadline_s": -1}}, 422, "invalid", "session.deadline_s"),
        (
            {"session": {"metadata": {"k": "v" * 256, **{f"k{n}": "v" * 256 for n in range(15)}}}},
            422,
            None,
            None,
        ),
        ({"calls": [{"template": "{{x}}{{out}}", "parameters": {}}]}, 422, "unbound_placeholder", None),
        ({"calls": "none"}, 422, "invalid", "calls"),
        ({"follow": [{"variable": "nobody"}]}, 404, "not_found", "follow[0].variable"),
        ({"follow": [{"variable": f"var_{'0' * 32}"}]}, 404, "not_found", "follow[0].variable"),
        ({"follow": [{"variable": ""}]}, 422, "invalid", "follow[0].variable"),
        ({"follow": [{"variable": "a", "objective": "soon"}]}, 422, "invalid", "follow[0].objective"),
        ({"follow": [{"variable": "a", "deltas": 1}]}, 422, "invalid", "follow[0].deltas"),
        ({"variables": [{"variable": "not a name", "value": ""}]}, 422, "bad_name", "variables[0].variable"),
        ({"variables": [{"variable": "x"}]}, 422, "missing_field", "variables[0].value"),
        ({"variables": [{"variable": "x", "value": 5}]}, 422, "invalid", "variables[0].value"),
        ({"variables": [{"variable": "x", "value": "1"}] * 2}, 409, "already_set", "variables[1]"),
        ({"variables": [{"variable": "x", "value": "z" * (65 << 10)}]}, 413, "too_large", "variables[0]"),
        (
            {"variables": [{"variable": "a", "value": ""}], "calls": CHAIN},
            409,
            "already_produced",
            "calls[0].parameters.out",
        ),
    ],
)
async def test_what_is_wrong_is_refused_whole_and_leaves_nothing(
    http_service: Harness, body: Mapping[str, object], status: int, code: str | None, param: str | None
) -> None:
    before = http_service.service.counters()["sessions_opened"]
    answer = await http_service.client.post("/v1/run", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code or error["code"])
    assert param is None or error["param"] == param
    assert http_service.service.counters()["sessions_opened"] == before


async def test_a_given_variable_that_is_there_is_refused(http_service: Harness) -> None:
    sid = await http_service.session()
    path = f"/v1/sessions/{sid}"
    await http_service.client.put(f"{path}/variables/doc", json={"value": "1"})
    body = {"variables": [{"variable": "doc", "value": "1"}], "calls": CHAIN}
    answer = await http_service.client.post(f"{path}/run", json=body)
    assert (answer.status_code, error_code(answer)) == (409, "already_set")
    assert (await http_service.client.get(path)).json()["num_variables"] == 1


async def test_another_tenants_session_is_not_there(http_service: Harness) -> None:
    sid = await http_service.session()
    headers = {"Authorization": f"Bearer {KEY_B}"}
    post = http_service.client.post
    foreign = await post(f"/v1/sessions/{sid}/run", json={}, headers=headers)
    unknown = await post(f"/v1/sessions/ses_{'0' * 32}/run", json={}, headers=headers)
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json()["error"]["message"] == unknown.json()["error"]["message"]


async def test_who_does_not_take_streams_is_told_so(http_service: Harness) -> None:
    answer = await http_service.client.post("/v1/run", json={}, headers={"Accept": "application/json"})
    assert (answer.status_code, error_code(answer)) == (406, "not_acceptable")


async def test_leaving_ends_the_wait_and_not_the_calls(http_service: Harness) -> None:
    service = http_service.service
    before = service.counters()["waiters"]
    async with following(http_service, {"calls": FOREVER, "follow": [{"variable": "late"}]}) as events:
        _, accepted = await anext(events)
        assert service.counters()["waiters"] == before + 1
    async with asyncio.timeout(20):
        while service.counters()["waiters"] != before:
            await asyncio.sleep(0.01)
    sid = accepted["session"]["session_id"]
    await http_service.client.put(f"/v1/sessions/{sid}/variables/never", json={"value": "#text"})
    assert (await http_service.variable(sid, "late"))["state"] == "ready"


async def test_deleting_the_session_ends_the_stream_with_an_error(http_service: Harness) -> None:
    async with following(http_service, {"calls": FOREVER, "follow": [{"variable": "late"}]}) as events:
        _, accepted = await anext(events)
        await http_service.client.delete(f"/v1/sessions/{accepted['session']['session_id']}")
        name, error = await anext(events)
    assert (name, error["code"]) == ("error", "session_closed")


async def test_a_follower_hears_of_a_cancel(http_service: Harness) -> None:
    async with following(http_service, {"calls": FOREVER, "follow": [{"variable": "late"}]}) as events:
        _, accepted = await anext(events)
        await http_service.client.post(f"/v1/sessions/{accepted['session']['session_id']}/cancel", json={})
        name, view = await anext(events)
    assert (name, view["error"]["code"]) == ("failed", "cancelled")


async def test_text_as_it_comes_counts_as_a_stream_and_values_do_not() -> None:
    follow = [{"variable": "late", "deltas": True}]
    async with running_service(limits=Limits(max_streams=1)) as service:
        async with following(service, {"calls": FOREVER, "follow": follow}) as events:
            await anext(events)
            refused = await service.client.post("/v1/run", json={"calls": FOREVER, "follow": follow})
            assert (refused.status_code, error_code(refused)) == (429, "over_limit")
            assert (await run(service, {"calls": CHAIN, "follow": [{"variable": "b"}]}))[-1][0] == "ready"
        assert service.service.counters()["sessions_opened"] == 2


async def test_a_key_is_known_after_a_restart_and_when_nothing_more_may_be_opened(tmp_path: Path) -> None:
    durable, limits = StoreConfig(path=tmp_path / "parrot.db"), Limits(max_sessions=1)
    request = RunCreate.model_validate({"calls": CHAIN, "follow": [{"variable": "b"}]})

    async def sent() -> dict[str, Any]:
        items = [item async for item in service.runs.open(TENANT, request, idempotency_key="k")]
        assert items[-1].event == "ready"
        return dict(items[0].data)

    async with core_service(store=await open_store(durable), limits=limits) as service:
        first = await sent()
        again = await sent()
    async with core_service(store=await open_store(durable), limits=limits) as service:
        after = await sent()
        await service.delete_session(TENANT, first["session"]["session_id"])
        with pytest.raises(GoneError):
            await sent()
    assert first["calls"] == again["calls"] == after["calls"]
    assert first["session"]["session_id"] == again["session"]["session_id"] == after["session"]["session_id"]
