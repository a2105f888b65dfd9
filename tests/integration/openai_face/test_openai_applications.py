"""Applications built by OpenAI clients: an output that is a variable, and a later prompt that names it."""

import asyncio
from typing import Any

import pytest
from http_harness import Harness
from openai_streams import CHAT, COMPLETIONS, ask, stream, user

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_prompt_names_the_output_of_another_request(http_service: Harness) -> None:
    sid = await http_service.session(name="graph")
    first, second = await asyncio.gather(
        ask(
            http_service,
            CHAT,
            messages=user("Write it #json"),
            parrot={"session_id": sid, "outputs": ["code"]},
        ),
        ask(
            http_service,
            COMPLETIONS,
            prompt="Test {{code}} for {{who}} #text",
            max_tokens=50,
            echo=True,
            parrot={
                "session_id": sid,
                "inputs": {"who": {"value": "{{me}}"}},
                "outputs": ["test"],
                "objective": "latency",
            },
        ),
    )
    code = first["choices"][0]["message"]["content"]
    assert code.startswith('{"a"')
    assert second["choices"][0]["text"].endswith("no JSON at all")
    assert first["parrot"]["session_id"] == sid
    assert [output["name"] for output in second["parrot"]["outputs"]] == ["test"]
    graph = (await http_service.client.get(f"/v1/sessions/{sid}/graph")).json()
    assert [(edge["source"], edge["target"]) for edge in graph["edges"]] == [
        (first["parrot"]["outputs"][0]["call_id"], second["parrot"]["outputs"][0]["call_id"])
    ]
    assert (await http_service.variable(sid, "code"))["value"] == code
    prompt_tokens = second["usage"]["prompt_tokens"]
    tokenizer = http_service.service.requests.model(None).tokenizer
    assert prompt_tokens == sum(
        len(tokenizer.encode(piece)) for piece in ("Test ", code, " for ", "{{me}}", " #text")
    )


async def test_a_graph_is_submitted_without_waiting(http_service: Harness) -> None:
    sid = await http_service.session()

    def part(prompt: str, name: str, **more: Any) -> dict[str, Any]:
        parrot = {"session_id": sid, "outputs": [name], "wait": False, **more}
        return {"prompt": prompt, "max_tokens": 20, "parrot": parrot}

    for body in (part("{{left}} {{right}} #text", "sum"), part("Left #json", "left"), part("R", "right")):
        answer = await ask(http_service, COMPLETIONS, **body)
        assert answer["choices"] == []
        assert answer["parrot"]["outputs"][0]["variable_id"].startswith("var_")
    assert (await http_service.variable(sid, "sum"))["value"] == "no JSON at all"
    counts = (await http_service.client.get(f"/v1/sessions/{sid}")).json()["calls"]
    assert counts["done"] == 3


async def test_an_answer_in_a_session_is_streamed_and_stays(http_service: Harness) -> None:
    sid = await http_service.session()
    body = {"messages": user("Say #text"), "parrot": {"session_id": sid, "outputs": ["words"]}}
    chunks = await stream(http_service, CHAT, **body)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == (await http_service.variable(sid, "words"))["value"] == "no JSON at all"


async def test_without_an_application_braces_are_plain_text(http_service: Harness) -> None:
    answer = await ask(http_service, CHAT, messages=user("What is {{code}}? #text"))
    assert answer["choices"][0]["message"]["content"] == "no JSON at all"


async def test_who_has_time_is_served_for_throughput(http_service: Harness) -> None:
    sid = await http_service.session()
    for fields, expected in (
        ({"service_tier": "flex"}, "throughput"),
        ({"priority": 1}, "throughput"),
        ({"nvext": {"agent_hints": {"latency_sensitivity": 0}}}, "throughput"),
        ({"service_tier": "priority", "priority": 0}, "latency"),
    ):
        answer = await ask(http_service, COMPLETIONS, prompt="x", parrot={"session_id": sid}, **fields)
        graph = (await http_service.client.get(f"/v1/sessions/{sid}/graph")).json()
        call_id = answer["parrot"]["outputs"][0]["call_id"]
        (node,) = [node for node in graph["calls"] if node["call_id"] == call_id]
        assert node["objective"] == expected, fields


@pytest.mark.parametrize(
    ("parrot", "status", "code"),
    [
        ({"session_id": None, "outputs": ["a"]}, 422, "missing_required_parameter"),
        ({"application": "x"}, 422, "invalid_value"),
        ({"group": "x"}, 422, "invalid_value"),
        ({"session_id": "ses_" + "0" * 32}, 404, "not_found"),
        ({"outputs": ["a", "b"]}, 422, "invalid_value"),
        ({"outputs": ["no name"]}, 422, "bad_name"),
        ({"inputs": {"a": {"value": "x"}}}, 422, "unused_parameter"),
        ({"inputs": {"a": {"output": {}}}}, 422, None),
        ({"objective": "admin"}, 422, "invalid_value"),
        ({"cache_salt": "x"}, 422, "unknown_parameter"),
    ],
    ids=str,
)
async def test_what_is_wrong_with_an_application_is_refused(
    http_service: Harness, parrot: dict[str, object], status: int, code: str | None
) -> None:
    if "session_id" not in parrot:
        parrot = {"session_id": await http_service.session(), **parrot}
    answer = await http_service.client.post(COMPLETIONS, json={"prompt": "x", "parrot": parrot})
    assert answer.status_code == status, answer.text
    assert code is None or answer.json()["error"]["code"] == code


async def test_a_bad_placeholder_is_refused_and_another_tenants_session_is_not_found(
    http_service: Harness,
) -> None:
    sid = await http_service.session()
    body = {"prompt": "{{a b}}", "parrot": {"session_id": sid}}
    answer = await http_service.client.post(COMPLETIONS, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_placeholder")
    other = await http_service.client.post(
        COMPLETIONS,
        json={"prompt": "x", "parrot": {"session_id": sid}},
        headers={"Authorization": "Bearer key-of-b"},
    )
    assert other.status_code == 404
