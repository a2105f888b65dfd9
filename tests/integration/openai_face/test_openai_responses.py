"""`/v1/responses` over a socket: whole, streamed, in the background, and one after the other."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from http_harness import KEY_B, Harness, running_service
from openai_streams import ask

from parrot.engine.scripted_config import ScriptedAnswer, ScriptedConfig, ScriptedFault
from parrot.server.openai.response_bodies import ResponseBody
from parrot.server.openai.response_objects import ResponseHead
from parrot.server.openai.responses import Memory, Turn
from parrot.types.ids import TenantId

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESPONSES = "/v1/responses"
ADD = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}
CALL = '{"name": "add", "arguments": {"a": 1}}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Harness]:
    """A service whose engine takes its time over some answers."""
    answers = (
        ScriptedAnswer(pattern="Result of add:\n3", answer="It is three."),
        ScriptedAnswer(pattern="add them", answer=CALL),
        ScriptedAnswer(pattern="Twice, sum up", answer=f'[{CALL}, {{"name": "add", "arguments": {{}}}}]'),
        ScriptedAnswer(pattern="Hello Ada.<|im_end|>\n<|im_start|>user\nWho am I", answer="You are Ada."),
        ScriptedAnswer(pattern="My name is Ada", answer="Hello Ada."),
    )
    faults = (
        ScriptedFault(kind="slow", marker="#slow", delay_s=0.05),
        ScriptedFault(kind="bad_output", marker="#fails", after_tokens=3),
    )
    config = ScriptedConfig(answers=answers, faults=faults, context_tokens=4096, tokens_per_step=1)
    async with running_service(engine=config) as harness:
        yield harness


async def events(service: Harness, **body: object) -> list[dict[str, Any]]:
    """The events of a streamed response, each named as its type is and numbered."""
    async with service.client.stream("POST", RESPONSES, json={"stream": True, **body}) as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        text = (await answer.aread()).decode()
    found = []
    for block in text.split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


async def until_ended(service: Harness, response_id: str) -> dict[str, Any]:
    """A background response, when it has ended."""
    async with asyncio.timeout(10):
        while True:
            response: dict[str, Any] = (await service.client.get(f"{RESPONSES}/{response_id}")).json()
            if response["status"] not in {"queued", "in_progress"}:
                return response
            await asyncio.sleep(0.02)


async def test_a_response_has_openais_shape(service: Harness) -> None:
    response = await ask(service, RESPONSES, input="My name is Ada", instructions="Be kind.", user="u")
    assert response["id"].startswith("resp_")
    assert (response["object"], response["status"], response["error"]) == ("response", "completed", None)
    (item,) = response["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [
        {"type": "output_text", "text": "Hello Ada.", "annotations": [], "logprobs": []}
    ]
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_tokens_details"] == {"cached_tokens": 0}
    assert (response["instructions"], response["user"]) == ("Be kind.", "u")


async def test_a_bounded_response_is_incomplete(service: Harness) -> None:
    response = await ask(service, RESPONSES, input="Go on", max_output_tokens=5, ignore_eos=True)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["usage"]["output_tokens"] == 5


async def test_a_stream_has_all_events_in_their_order(service: Harness) -> None:
    found = await events(service, input="My name is Ada")
    kinds = [event["type"].removeprefix("response.") for event in found]
    num_deltas = kinds.count("output_text.delta")
    assert num_deltas > 1
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * num_deltas,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    deltas = "".join(e["delta"] for e in found if e["type"] == "response.output_text.delta")
    assert deltas == "Hello Ada."
    final = found[-1]["response"]
    assert final["output"][0]["content"][0]["text"] == deltas
    again = (await service.client.get(f"{RESPONSES}/{final['id']}")).json()
    assert again == final


async def test_the_next_turn_knows_the_one_before(service: Harness) -> None:
    first = await ask(service, RESPONSES, input="My name is Ada", instructions="Forget this.")
    second = await ask(service, RESPONSES, input="Who am I?", previous_response_id=first["id"])
    assert second["output"][0]["content"][0]["text"] == "You are Ada."
    await ask(service, RESPONSES, input="My name is Ada", conversation="conv_1")
    turn = await ask(service, RESPONSES, input="Who am I?", conversation={"id": "conv_1"})
    assert turn["output"][0]["content"][0]["text"] == "You are Ada."
    assert turn["conversation"] == {"id": "conv_1"}
    fresh = await ask(service, RESPONSES, input="Who am I?", conversation="conv_2")
    assert fresh["output"][0]["content"][0]["text"] != "You are Ada."


async def test_a_call_and_its_result_are_items(service: Harness) -> None:
    first = await ask(service, RESPONSES, input="Please add them", tools=[ADD])
    (call,) = first["output"]
    assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", "add", {"a": 1})
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "3"}
    by_id = await ask(service, RESPONSES, input=[result], previous_response_id=first["id"], tools=[ADD])
    assert by_id["output"][0]["content"][0]["text"] == "It is three."
    by_hand = await ask(
        service, RESPONSES, input=[{"role": "user", "content": "Please add them"}, call, result], tools=[ADD]
    )
    assert by_hand["output"][0]["content"][0]["text"] == "It is three."
    found = await events(service, input="Please add them", tools=[ADD])
    kinds = [event["type"].removeprefix("response.") for event in found[2:]]
    num_deltas = kinds.count("function_call_arguments.delta")
    assert num_deltas > 1
    assert kinds == [
        "output_item.added",
        *["function_call_arguments.delta"] * num_deltas,
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    deltas = "".join(e["delta"] for e in found if e["type"].endswith("arguments.delta"))
    assert deltas == found[-1]["response"]["output"][0]["arguments"] == call["arguments"]


async def test_several_calls_are_items_one_after_the_other(service: Harness) -> None:
    found = await events(service, input="Twice, sum up", tools=[ADD])
    kinds = [(e["type"].rpartition(".")[2], e["output_index"]) for e in found[2:-1]]
    assert list(dict.fromkeys(kinds)) == [
        (kind, number) for number in (0, 1) for kind in ("added", "delta", "done")
    ]
    assert [item["name"] for item in found[-1]["response"]["output"]] == ["add", "add"]
    assert [json.loads(item["arguments"]) for item in found[-1]["response"]["output"]] == [{"a": 1}, {}]


async def test_likelihoods_are_told_when_they_are_asked_for(service: Harness) -> None:
    response = await ask(
        service,
        RESPONSES,
        input="My name is Ada",
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    told = response["output"][0]["content"][0]["logprobs"]
    assert "".join(token["token"] for token in told) == "Hello Ada."
    assert all(len(token["top_logprobs"]) == 2 for token in told)
    found = await events(service, input="My name is Ada", top_logprobs=1)
    deltas = [token for e in found if e["type"].endswith("text.delta") for token in e["logprobs"]]
    assert "".join(token["token"] for token in deltas) == "Hello Ada."


async def test_the_tokens_of_a_prompt_are_counted_without_answering(service: Harness) -> None:
    body: dict[str, Any] = {"input": "My name is Ada", "instructions": "Be kind."}
    counted = await ask(service, f"{RESPONSES}/input_tokens", **body)
    response = await ask(service, RESPONSES, **body)
    assert counted == {
        "object": "response.input_tokens",
        "input_tokens": response["usage"]["input_tokens"],
    }


async def test_a_response_in_the_background_is_streamed_and_goes_on_without_its_client(
    service: Harness,
) -> None:
    found = await events(service, input="My name is Ada", background=True)
    final = found[-1]["response"]
    assert (final["status"], final["background"]) == ("completed", True)
    assert (await until_ended(service, final["id"]))["output"] == final["output"]
    await service.client.delete(f"{RESPONSES}/{final['id']}")
    body = {"input": "#slow", "background": True, "stream": True, "max_output_tokens": 5}
    async with service.client.stream("POST", RESPONSES, json=body | {"ignore_eos": True}) as answer:
        data = await anext(line async for line in answer.aiter_lines() if line.startswith("data: "))
        response_id = json.loads(data.removeprefix("data: "))["response"]["id"]
    left = await until_ended(service, response_id)
    assert (left["status"], left["usage"]["output_tokens"]) == ("incomplete", 5)
    await service.client.delete(f"{RESPONSES}/{response_id}")


async def test_a_response_is_a_call_of_an_application(service: Harness) -> None:
    sid = await service.session()
    await service.submit(
        sid,
        {
            "template": "My name is Ada{{out}}",
            "parameters": {"out": {"output": {"variable": "greeting"}}},
        },
    )
    response = await ask(
        service,
        RESPONSES,
        input="They said {{greeting}}. Please add them",
        tools=[ADD],
        parrot={"session_id": sid, "outputs": ["sum"]},
    )
    assert response["output"][0]["name"] == "add"
    assert (await service.variable(sid, "sum"))["value"] == CALL
    assert (await service.client.get(f"{RESPONSES}/{response['id']}")).status_code == 404
    await service.client.delete(f"/v1/sessions/{sid}")


async def test_an_answer_follows_a_format(service: Harness) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    response = await ask(
        service,
        RESPONSES,
        input="How many?",
        text={"format": {"type": "json_schema", "name": "count", "schema": schema, "strict": True}},
    )
    assert json.loads(response["output"][0]["content"][0]["text"]).keys() == {"n"}


async def test_a_response_in_the_background_is_asked_for_later(service: Harness) -> None:
    begun = await ask(service, RESPONSES, input="My name is Ada", background=True)
    assert (begun["status"], begun["background"], begun["output"]) == ("queued", True, [])
    response = await until_ended(service, begun["id"])
    assert response["status"] == "completed"
    assert response["output"][0]["content"][0]["text"] == "Hello Ada."
    turn = await ask(service, RESPONSES, input="Who am I?", previous_response_id=begun["id"])
    assert turn["output"][0]["content"][0]["text"] == "You are Ada."
    deleted = await service.client.delete(f"{RESPONSES}/{begun['id']}")
    assert deleted.json() == {"id": begun["id"], "object": "response", "deleted": True}
    assert (await service.client.get(f"{RESPONSES}/{begun['id']}")).status_code == 404
    assert (await service.client.get("/v1/sessions")).json()["sessions"] == []


async def test_a_response_in_the_background_is_cancelled(service: Harness) -> None:
    begun = await ask(
        service, RESPONSES, input="#slow", background=True, max_output_tokens=4000, ignore_eos=True
    )
    early = await service.client.post(RESPONSES, json={"input": "And?", "previous_response_id": begun["id"]})
    assert (early.status_code, early.json()["error"]["code"]) == (409, "conflict")
    cancelled = await service.client.post(f"{RESPONSES}/{begun['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert (await until_ended(service, begun["id"]))["status"] == "cancelled"
    await service.client.delete(f"{RESPONSES}/{begun['id']}")


async def test_a_failure_is_told_where_it_is_waited_for(service: Harness) -> None:
    begun = await ask(service, RESPONSES, input="#fails", background=True)
    failed = await until_ended(service, begun["id"])
    assert failed["status"] == "failed"
    assert "attempts_exhausted" in failed["error"]["message"]
    await service.client.delete(f"{RESPONSES}/{begun['id']}")
    whole = await service.client.post(RESPONSES, json={"input": "#fails"})
    assert (whole.status_code, whole.json()["error"]["code"]) == (422, "attempts_exhausted")
    found = await events(service, input="#fails")
    assert found[-1]["type"] == "error"
    assert found[-1]["code"] in {"attempts_exhausted", "stream_reset"}


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"previous_response_id": "resp_0"}, 404, "previous_response_id"),
        ({"previous_response_id": "resp_0", "conversation": "c"}, 422, "conversation"),
        ({"truncation": "auto"}, 422, "truncation"),
        ({"reasoning": {"effort": "high"}}, 422, "reasoning"),
        ({"prompt": {"id": "p"}}, 404, "prompt.id"),
        ({"prompt": {"id": "p", "version": "x"}}, 422, "prompt.version"),
        ({"parrot": {"session_id": "s", "wait": False}}, 422, "parrot.wait"),
        ({"parrot": {"session_id": "s"}, "background": True}, 422, "background"),
        ({"input": [{"type": "image_generation_call"}]}, 422, "input"),
        ({"input": []}, 422, None),
        ({"tools": [{"type": "web_search"}]}, 422, "tools[0].type"),
        ({"max_output_tokens": 0}, 422, "max_output_tokens"),
        ({"model": "no"}, 404, "model"),
        ({"nope": 1}, 422, "nope"),
    ],
    ids=str,
)
async def test_what_cannot_be_served_is_refused(
    service: Harness, fields: dict[str, object], status: int, param: str | None
) -> None:
    answer = await service.client.post(RESPONSES, json={"input": "x", **fields})
    assert answer.status_code == status, answer.text
    assert param is None or answer.json()["error"]["param"].startswith(param)


async def test_another_tenants_response_is_not_found(service: Harness) -> None:
    begun = await ask(service, RESPONSES, input="x", background=True)
    ended = await ask(service, RESPONSES, input="x")
    other = {"Authorization": f"Bearer {KEY_B}"}
    for response_id in (begun["id"], ended["id"]):
        unknown = await service.client.get(f"{RESPONSES}/resp_{'0' * 32}", headers=other)
        answer = await service.client.get(f"{RESPONSES}/{response_id}", headers=other)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert answer.json()["error"]["message"] == unknown.json()["error"]["message"]
    await service.client.delete(f"{RESPONSES}/{begun['id']}")


async def test_a_session_that_is_no_response_is_not_read_as_one(service: Harness) -> None:
    sid = await service.session()
    await service.submit(sid, {"template": "x{{out}}", "parameters": {"out": {"output": {}}}})
    answer = await service.client.get(f"{RESPONSES}/{sid.replace('ses_', 'resp_')}")
    assert answer.status_code == 404
    await service.client.delete(f"/v1/sessions/{sid}")


async def test_the_oldest_responses_are_forgotten_first() -> None:
    memory, tenant = Memory(most=2), TenantId("a")
    for number in range(3):
        head = ResponseHead(
            id=f"resp_{number}", created_at=0, model="m", body=ResponseBody(input="x"), has_tools=False
        )
        memory.keep(tenant, Turn(head=head, messages=()))
    assert memory.find(tenant, "resp_0") is None
    assert memory.find(tenant, "resp_2") is not None
    assert memory.find(TenantId("b"), "resp_2") is None
