"""An application over HTTP, end to end: service, scripted engine, socket."""

import asyncio
import json

import pytest
from http_harness import KEY_ADMIN, Harness, call

pytestmark = pytest.mark.asyncio(loop_scope="module")


def chain(length: int) -> list[dict[str, object]]:
    calls = [call("#text{{out}}", out={"output": {"variable": "v0"}})]
    calls += [
        call(
            f"Step {i} {{{{a}}}} {{{{out}}}}",
            a={"variable": f"v{i - 1}"},
            out={"output": {"variable": f"v{i}"}},
        )
        for i in range(1, length)
    ]
    return calls


def events_of(text: str) -> list[tuple[str, dict[str, object]]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and line[0] != ":")
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


async def test_a_chain_runs_inside_the_service_and_its_graph_shows_it(http_service: Harness) -> None:
    sid = await http_service.session(name="chain", objective="latency")
    answer = await http_service.submit(sid, *chain(5))
    assert answer.status_code == 202
    last = await http_service.variable(sid, "v4")
    assert last["state"] == "ready"
    graph = (await http_service.client.get(f"/v1/sessions/{sid}/graph")).json()
    assert [node["state"] for node in graph["calls"]] == ["done"] * 5
    assert [node["stage"] for node in graph["calls"]] == [0, 1, 2, 3, 4]
    assert len(graph["edges"]) == 4


async def test_a_stream_gives_the_committed_value_piece_by_piece(http_service: Harness) -> None:
    sid = await http_service.session()
    await http_service.submit(sid, *chain(2))
    answer = await http_service.client.get(f"/v1/sessions/{sid}/variables/v1/stream")
    events = events_of(answer.text)
    value = (await http_service.variable(sid, "v1"))["value"]
    deltas = "".join(str(data["text"]) for event, data in events if event == "delta")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert deltas == value
    assert events[-1] == ("ready", {**(await http_service.variable(sid, "v1"))})


async def test_a_stream_resumes_where_it_was_cut(http_service: Harness) -> None:
    sid = await http_service.session()
    await http_service.submit(sid, *chain(1))
    value = str((await http_service.variable(sid, "v0"))["value"])
    path = f"/v1/sessions/{sid}/variables/v0/stream"
    whole = await http_service.client.get(path)
    attempt = next(data["attempt"] for event, data in events_of(whole.text) if event == "delta")
    rest = await http_service.client.get(path, headers={"Last-Event-ID": f"{attempt}.5"})
    text = "".join(str(data["text"]) for event, data in events_of(rest.text) if event == "delta")
    assert text == value[5:]


async def test_the_sessions_stream_tells_a_calls_life_in_order(http_service: Harness) -> None:
    sid = await http_service.session()
    await http_service.submit(sid, *chain(1))
    await http_service.variable(sid, "v0")
    names = []
    async with http_service.client.stream("GET", f"/v1/sessions/{sid}/events") as answer:
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            if line == "event: call_finished":
                break
    kept = [name for name in names if name in ("session_opened", "calls_submitted", "variable_ready")]
    assert kept == ["session_opened", "calls_submitted", "variable_ready"]
    assert names[-1] == "call_finished"


async def test_an_input_set_later_starts_the_calls_that_wait_for_it(http_service: Harness) -> None:
    sid = await http_service.session()
    await http_service.submit(
        sid, call("{{a}} #text{{out}}", a={"variable": "later"}, out={"output": {"variable": "o"}})
    )
    waiting = asyncio.ensure_future(http_service.variable(sid, "o"))
    pending = await http_service.variable(sid, "o", wait=0)
    answer = await http_service.client.put(f"/v1/sessions/{sid}/variables/later", json={"value": "now"})
    view = await waiting
    assert (pending["state"], "value" in pending) == ("pending", False)
    assert answer.json()["state"] == "ready"
    assert view["value"] == "no JSON at all"


async def test_a_cancelled_branch_ends_and_its_sibling_goes_on(http_service: Harness) -> None:
    sid = await http_service.session()
    never = {"variable": "never"}
    await http_service.submit(
        sid,
        call("{{a}} {{out}}", a=never, out={"output": {"variable": "left"}}),
        call("{{a}} #text{{out}}", a=never, out={"output": {"variable": "right"}}),
    )
    answer = await http_service.client.post(f"/v1/sessions/{sid}/cancel", json={"variables": ["left"]})
    assert len(answer.json()["cancelled"]) == 1
    assert (await http_service.variable(sid, "left"))["error"]["code"] == "cancelled"
    await http_service.client.put(f"/v1/sessions/{sid}/variables/never", json={"value": "x"})
    assert (await http_service.variable(sid, "right"))["state"] == "ready"


async def test_sessions_are_listed_a_page_at_a_time(http_service: Harness) -> None:
    mine = [await http_service.session(name=f"page {i}") for i in range(3)]
    first = (await http_service.client.get("/v1/sessions?limit=2")).json()
    second = (await http_service.client.get(f"/v1/sessions?limit=2&after={first['next']}")).json()
    found = [session["session_id"] for page in (first, second) for session in page["sessions"]]
    assert found[:3] == mine[::-1]


async def test_the_service_tells_its_limits_models_engines_and_metrics(http_service: Harness) -> None:
    limits = (await http_service.client.get("/v1/limits")).json()
    engines = (await http_service.client.get("/v1/engines")).json()["engines"]
    as_operator = {"Authorization": f"Bearer {KEY_ADMIN}"}
    metrics = (await http_service.client.get("/metrics", headers=as_operator)).text
    assert limits["max_json_depth"] == 32
    assert engines[0]["state"] == "up"
    assert "parrot_calls_submitted_total" in metrics
    assert "parrot_engine_up" in metrics


async def test_an_idle_service_holds_no_memory_and_no_waiter(http_service: Harness) -> None:
    sid = await http_service.session()
    await http_service.submit(sid, *chain(4))
    await http_service.variable(sid, "v3")
    await http_service.client.delete(f"/v1/sessions/{sid}")
    as_operator = {"Authorization": f"Bearer {KEY_ADMIN}"}
    engine = (await http_service.client.get("/v1/engines", headers=as_operator)).json()["engines"][0]
    counters = http_service.service.counters()
    assert (engine["num_running"], counters["calls_running"], counters["waiters"]) == (0, 0, 0)
