"""Rows of the bad-input catalogue that take more than one request."""

import asyncio
import re
import time
from typing import Any

import pytest
from http_harness import KEY_A, KEY_B, Harness, call, error_code, json_bytes, output, running_service

from parrot.core.limits import Limits

pytestmark = pytest.mark.asyncio(loop_scope="module")

AS_B = {"Authorization": f"Bearer {KEY_B}"}


async def put(service: Harness, sid: str, ref: str, value: str) -> Any:
    return await service.client.put(f"/v1/sessions/{sid}/variables/{ref}", json={"value": value})


async def test_row_7_a_chunked_body_beyond_the_limit_is_cut_off(http_service: Harness) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", http_service.port)
    writer.write(
        b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + KEY_A.encode() + b"\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    num_sent = 0

    async def send() -> None:
        nonlocal num_sent
        for _ in range(4000):
            writer.write(piece)
            await writer.drain()
            num_sent += len(piece)

    sending = asyncio.ensure_future(send())
    answer = await asyncio.wait_for(reader.read(), 5)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    writer.close()
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b'"too_large"' in answer
    assert num_sent < 4000 * len(piece)


async def test_row_17_an_event_stream_is_sent_to_who_accepts_it(http_service: Harness) -> None:
    sid = await http_service.session()
    await http_service.submit(sid, call("#text{{out}}", out={"output": {"variable": "a"}}))
    answer = await http_service.client.get(
        f"/v1/sessions/{sid}/variables/a/stream", headers={"Accept": "text/html, text/event-stream"}
    )
    assert answer.status_code == 200


async def test_row_20_a_range_is_ignored(http_service: Harness) -> None:
    answer = await http_service.client.get("/v1/limits", headers={"Range": "bytes=0-," + "0-," * 1000})
    assert answer.status_code == 200


async def test_row_28_another_tenants_things_look_as_if_they_were_not_there(http_service: Harness) -> None:
    sid = await http_service.session()
    unknown = "ses_" + "0" * 32
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/graph"),
        ("GET", "/events"),
        ("GET", "/variables/x"),
        ("GET", "/variables/x/stream"),
    ):
        foreign = await http_service.client.request(method, f"/v1/sessions/{sid}{path}", headers=AS_B)
        missing = await http_service.client.request(method, f"/v1/sessions/{unknown}{path}", headers=AS_B)
        assert (foreign.status_code, error_code(foreign)) == (404, "not_found")
        scrubbed = [re.sub(r"(ses|req)_[0-9a-f]{32}", "ID", answer.text) for answer in (foreign, missing)]
        assert scrubbed[0] == scrubbed[1]
    assert (await http_service.client.get(f"/v1/sessions/{sid}")).status_code == 200
    assert (await http_service.client.get("/v1/sessions", headers=AS_B)).json()["sessions"] == []


async def test_row_49_odd_characters_in_values_come_back_as_they_were(http_service: Harness) -> None:
    sid = await http_service.session()
    for name, value in {"a": "\u202eabc\u200b\x07", "b": "👩‍👩‍👧‍👦", "c": "  \n", "d": "</s>{{x}}"}.items():
        assert (await put(http_service, sid, name, value)).json()["value"] == value
        assert (await http_service.variable(sid, name))["value"] == value


async def test_row_61_a_parser_bomb_is_refused_quickly(http_service: Harness) -> None:
    sid = await http_service.session()
    began_s = time.process_time()
    answer = await http_service.submit(sid, call("{{" * 99_999 + "{{out}}"))
    assert answer.status_code == 422
    assert time.process_time() - began_s < 2.0


@pytest.mark.parametrize("value", ["a" * 60_000, "^" * 60_000, "漢" * 20_000])
async def test_row_68_a_value_that_is_hard_to_tokenise_does_not_stop_others(
    value: str, http_service: Harness
) -> None:
    sid = await http_service.session()
    hard = asyncio.ensure_future(
        http_service.submit(sid, call("{{a}} {{out}}", a={"value": value}, out={"output": {"variable": "o"}}))
    )
    slowest_s = 0.0
    while not hard.done():
        began_s = time.perf_counter()
        await http_service.client.get("/healthz")
        slowest_s = max(slowest_s, time.perf_counter() - began_s)
    answer = await hard
    assert answer.status_code in (202, 413, 422)
    assert slowest_s < 5.0


async def test_row_69_a_prompt_that_does_not_fit_is_told_both_numbers(http_service: Harness) -> None:
    sid = await http_service.session()
    answer = await http_service.submit(sid, call("Say " * 4096 + "{{out}}"))
    assert error_code(answer) == "context_overflow"
    assert re.search(r"4,?096", answer.json()["error"]["message"])


async def test_row_69_a_prompt_that_outgrows_the_window_later_fails_its_output(http_service: Harness) -> None:
    sid = await http_service.session()
    late = call("{{a}} {{out}}", a={"variable": "late"}, out={"output": {"variable": "o"}})
    assert (await http_service.submit(sid, late)).status_code == 202
    await put(http_service, sid, "late", "word " * 5000)
    view = await http_service.variable(sid, "o")
    assert (view["state"], view["error"]["code"]) == ("failed", "context_overflow")


async def test_row_72_a_cycle_across_submissions_is_refused(http_service: Harness) -> None:
    sid = await http_service.session()
    first = call("{{a}} {{out}}", a={"variable": "p"}, out={"output": {"variable": "o"}})
    second = call("{{a}} {{out}}", a={"variable": "o"}, out={"output": {"variable": "p"}})
    assert (await http_service.submit(sid, first)).status_code == 202
    refused = await http_service.submit(sid, second)
    assert (refused.status_code, error_code(refused)) == (422, "cycle")


async def test_row_74_a_variable_has_one_producer(http_service: Harness) -> None:
    sid = await http_service.session()
    assert (await http_service.submit(sid, output(variable="o"))).status_code == 202
    refused = await http_service.submit(sid, output(variable="o"))
    assert (refused.status_code, error_code(refused)) == (409, "already_produced")


async def test_row_75_a_produced_variable_cannot_be_set(http_service: Harness) -> None:
    sid = await http_service.session()
    await http_service.submit(sid, output(variable="o"))
    refused = await put(http_service, sid, "o", "x")
    assert (refused.status_code, error_code(refused)) == (409, "already_produced")


async def test_row_76_the_same_value_twice_is_fine_and_another_is_not(http_service: Harness) -> None:
    sid = await http_service.session()
    answers = [await put(http_service, sid, "a", value) for value in ("x", "x", "y")]
    assert [answer.status_code for answer in answers] == [200, 200, 409]
    assert error_code(answers[2]) == "already_set"


async def test_row_78_a_call_on_a_failed_variable_fails_with_its_root(http_service: Harness) -> None:
    sid = await http_service.session()
    pattern = {"type": "regex", "pattern": "[0-9]{9}"}
    await http_service.submit(
        sid, call("#text{{out}}", out={"output": {"variable": "a", "transforms": [pattern]}})
    )
    assert (await http_service.variable(sid, "a"))["state"] == "failed"
    later = call("{{a}} {{out}}", a={"variable": "a"}, out={"output": {"variable": "b"}})
    assert (await http_service.submit(sid, later)).status_code == 202
    error = (await http_service.variable(sid, "b"))["error"]
    assert (error["code"], error["data"]["root"]) == ("upstream_failed", "transform_no_match")


async def test_row_79_a_variable_nobody_sets_fails_at_the_deadline(http_service: Harness) -> None:
    sid = await http_service.session(deadline_s=0.2)
    never = call("{{a}} {{out}}", a={"variable": "never"}, out={"output": {"variable": "o"}})
    assert (await http_service.submit(sid, never)).status_code == 202
    view = await http_service.variable(sid, "o")
    assert (view["state"], view["error"]["code"]) == ("failed", "deadline")


async def test_row_80_more_pending_calls_than_allowed_are_over_the_limit(http_service: Harness) -> None:
    sid = await http_service.session()
    refused = await http_service.submit(sid, *[call("{{a}} {{out}}", a={"variable": "never"})] * 51)
    assert (refused.status_code, error_code(refused)) == (429, "over_limit")
    assert int(refused.headers["retry-after"]) >= 1


async def test_row_80_a_call_with_too_many_inputs_is_refused(http_service: Harness) -> None:
    sid = await http_service.session()
    names = [f"p{i}" for i in range(1001)]
    template = "x" + "".join(f"{{{{{name}}}}}" for name in names) + "{{out}}"
    refused = await http_service.submit(sid, call(template, **{name: {"variable": name} for name in names}))
    assert refused.status_code == 422


async def test_row_81_one_bad_call_in_a_batch_leaves_nothing_behind(http_service: Harness) -> None:
    sid = await http_service.session()
    calls = [call("{{a}} {{out}}", a={"value": "v"}) for _ in range(40)]
    calls[38] = call("Say {{7*7}} {{out}}")
    refused = await http_service.submit(sid, *calls)
    assert (refused.status_code, error_code(refused)) == (422, "bad_placeholder")
    assert "calls[38]" in refused.json()["error"]["param"]
    session = (await http_service.client.get(f"/v1/sessions/{sid}")).json()
    assert (sum(session["calls"].values()), session["num_variables"]) == (0, 0)


async def test_row_82_a_huge_wait_is_taken_as_the_longest_one(http_service: Harness) -> None:
    sid = await http_service.session()
    await put(http_service, sid, "a", "x")
    answer = await http_service.client.get(f"/v1/sessions/{sid}/variables/a?wait=1e9")
    assert answer.json()["state"] == "ready"


async def test_row_83_a_deleted_sessions_variables_are_gone(http_service: Harness) -> None:
    sid = await http_service.session()
    await put(http_service, sid, "a", "x")
    await http_service.client.delete(f"/v1/sessions/{sid}")
    answer = await http_service.client.get(f"/v1/sessions/{sid}/variables/a")
    assert (answer.status_code, error_code(answer)) == (410, "session_closed")


async def test_row_83_who_waits_when_a_session_is_deleted_is_told(http_service: Harness) -> None:
    sid = await http_service.session()
    await http_service.submit(
        sid, call("{{a}} {{out}}", a={"variable": "never"}, out={"output": {"variable": "o"}})
    )
    waiting = asyncio.ensure_future(http_service.client.get(f"/v1/sessions/{sid}/variables/o?wait=30"))
    await asyncio.sleep(0.1)
    await http_service.client.delete(f"/v1/sessions/{sid}")
    answer = await asyncio.wait_for(waiting, 5)
    assert answer.status_code == 410


@pytest.mark.parametrize(
    ("event_id", "status", "code"),
    [
        ("garbage", 400, "bad_event_id"),
        ("9.99999", 409, "event_from_future"),
        ("x" * 300, 400, "bad_event_id"),
    ],
)
async def test_row_85_an_event_id_that_is_not_ours_is_refused(
    event_id: str, status: int, code: str, http_service: Harness
) -> None:
    sid = await http_service.session()
    await http_service.submit(sid, call("#text{{out}}", out={"output": {"variable": "a"}}))
    await http_service.variable(sid, "a")
    answer = await http_service.client.get(
        f"/v1/sessions/{sid}/variables/a/stream", headers={"Last-Event-ID": event_id}
    )
    assert (answer.status_code, error_code(answer)) == (status, code)


@pytest.mark.parametrize(
    ("event_id", "status", "code"), [("-1", 400, "bad_event_id"), ("9999", 409, "event_from_future")]
)
async def test_row_85_the_sessions_stream_refuses_them_too(
    event_id: str, status: int, code: str, http_service: Harness
) -> None:
    sid = await http_service.session()
    answer = await http_service.client.get(f"/v1/sessions/{sid}/events", headers={"Last-Event-ID": event_id})
    assert (answer.status_code, error_code(answer)) == (status, code)


async def test_row_86_deleting_twice_and_submitting_after_are_refused(http_service: Harness) -> None:
    sid = await http_service.session()
    first = await http_service.client.delete(f"/v1/sessions/{sid}")
    second = await http_service.client.delete(f"/v1/sessions/{sid}")
    submitted = await http_service.submit(sid, call())
    assert (first.status_code, second.status_code, submitted.status_code) == (204, 410, 410)


async def test_row_88_a_key_with_another_body_is_refused_and_tenants_are_apart(
    http_service: Harness,
) -> None:
    sid = await http_service.session()
    key = {"Idempotency-Key": "k88"}
    first = await http_service.submit(sid, call("a {{out}}"), headers=key)
    again = await http_service.submit(sid, call("a {{out}}"), headers=key)
    other = await http_service.submit(sid, call("b {{out}}"), headers=key)
    assert first.json() == again.json()
    assert (other.status_code, error_code(other)) == (422, "idempotency_mismatch")
    theirs = (await http_service.client.post("/v1/sessions", json={}, headers=AS_B)).json()["session_id"]
    taken = await http_service.submit(theirs, call("b {{out}}"), headers={**key, **AS_B})
    assert taken.status_code == 202


async def test_row_89_one_key_at_once_fifty_times_makes_one_call(http_service: Harness) -> None:
    sid = await http_service.session()
    answers = await asyncio.gather(
        *(http_service.submit(sid, call(), headers={"Idempotency-Key": "k89"}) for _ in range(50))
    )
    accepted = {a.json()["calls"][0]["call_id"] for a in answers if a.status_code == 202}
    assert {a.status_code for a in answers} <= {202, 409}
    assert len(accepted) == 1
    graph = (await http_service.client.get(f"/v1/sessions/{sid}/graph")).json()
    assert len(graph["calls"]) == 1


async def test_row_95_a_newline_is_a_stop_string(http_service: Harness) -> None:
    view = await http_service.run(output(sampling={"stop": ["\n"], "max_tokens": 5}))
    assert view["state"] == "ready"


async def test_row_98_the_models_that_are_served_are_named(http_service: Harness) -> None:
    model = (await http_service.client.get("/v1/models")).json()["data"][0]["id"]
    view = await http_service.run({**call(), "model": model})
    assert view["state"] == "ready"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "http://evil.example/schema.json"},
        {"type": "foo"},
        {"type": "string", "pattern": "(a+)+b" * 3000},
    ],
)
async def test_row_101_a_hostile_schema_ends_as_an_error_and_the_engine_lives(
    schema: dict[str, Any], http_service: Harness
) -> None:
    sid = await http_service.session()
    spec = {"output": {"variable": "o", "schema": schema, "sampling": {"max_tokens": 20}}}
    answer = await http_service.submit(sid, call("Say {{out}}", out=spec))
    if answer.status_code == 202:
        view = await http_service.variable(sid, "o")
        assert (view["state"], view["error"]["code"]) == ("failed", "grammar_unsupported")
    else:
        assert answer.status_code == 422
    engine = (await http_service.client.get("/v1/engines")).json()["engines"][0]
    assert (engine["state"], engine["num_restarts"]) == ("up", 0)


async def test_row_101_nested_beyond_bounds_is_refused(http_service: Harness) -> None:
    sid = await http_service.session()
    schema = '{"type":"array","items":' * 15_000 + "{}" + "}" * 15_000
    body = json_bytes({"calls": [output(schema="SCHEMA")]}).replace(b'"SCHEMA"', schema.encode())
    answer = await http_service.client.post(
        f"/v1/sessions/{sid}/calls", content=body, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, error_code(answer)) == (400, "too_deep")


async def test_row_64_an_outputs_placeholders_are_text_for_the_call_it_feeds(http_service: Harness) -> None:
    sid = await http_service.session()
    first = call("#placeholder{{out}}", out={"output": {"variable": "a"}})
    quoted = {"type": "template", "text": "[{{value}}]"}
    second = call("{{a}} #x{{out}}", a={"variable": "a"}, out={"output": {"transforms": [quoted]}})
    accepted = (await http_service.submit(sid, first, second)).json()["calls"][1]["outputs"]["out"]
    assert (await http_service.variable(sid, "a"))["value"] == "{{x}} {{out}}"
    assert (await http_service.variable(sid, accepted["variable_id"]))["value"] == "[" + "x" * 100 + "]"


async def test_row_80_a_long_chain_runs_to_its_end() -> None:
    async with running_service(limits=Limits()) as service:
        sid = await service.session()
        links = [call("#x{{out}}", out={"output": {"variable": "v0"}})]
        links += [
            call(
                "{{a}} #x{{out}}",
                a={"variable": f"v{i - 1}"},
                out={"output": {"variable": f"v{i}", "sampling": {"max_tokens": 1}}},
            )
            for i in range(1, 1000)
        ]
        assert (await service.submit(sid, *links)).status_code == 202
        last = await service.variable(sid, "v999")
    assert last["state"] == "ready"


async def test_after_all_of_it_the_service_still_gives_its_values(http_service: Harness) -> None:
    await http_service.check_canary()
    assert http_service.service.health().status == "ok"
