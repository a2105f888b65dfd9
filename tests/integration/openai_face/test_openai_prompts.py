"""`prompt` of a response: a registered function is called by its name."""

import json
from typing import Any

import pytest
from http_harness import Harness
from openai_streams import ask

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESPONSES = "/v1/responses"


async def register(service: Harness, name: str, **spec: object) -> int:
    """The version that a registration made."""
    answer = await service.client.put(f"/v1/functions/{name}", json=spec)
    assert answer.status_code in {200, 201}, answer.text
    return int(answer.json()["version"])


def said(response: dict[str, Any]) -> str:
    """A response's text."""
    return str(response["output"][0]["content"][0]["text"])


async def test_a_registered_function_is_called_by_its_name_and_version(http_service: Harness) -> None:
    first = await register(http_service, "say_it", template="{{what}} #text{{out}}", outputs={"out": {}})
    await register(http_service, "say_it", template="{{what}} #json{{out}}", outputs={"out": {}})
    prompt: dict[str, Any] = {"id": "say_it", "variables": {"what": "Well {{x}}"}}
    latest = await ask(http_service, RESPONSES, prompt=prompt)
    assert json.loads(said(latest))["n"] is None
    assert latest["prompt"]["id"] == "say_it"
    old = await ask(http_service, RESPONSES, prompt=prompt | {"version": str(first)})
    assert said(old) == "no JSON at all"


async def test_what_the_body_says_of_its_output_takes_the_place_of_what_is_registered(
    http_service: Harness,
) -> None:
    sampling = {"max_tokens": 30, "ignore_eos": True}
    await register(http_service, "go_on", template="Go on{{out}}", outputs={"out": {"sampling": sampling}})
    as_registered = await ask(http_service, RESPONSES, prompt={"id": "go_on"})
    assert as_registered["usage"]["output_tokens"] == 30
    shorter = await ask(http_service, RESPONSES, prompt={"id": "go_on"}, max_output_tokens=7, top_logprobs=1)
    assert shorter["usage"]["output_tokens"] == 7
    assert len(shorter["output"][0]["content"][0]["logprobs"]) == 7
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    bound = await ask(
        http_service,
        RESPONSES,
        prompt={"id": "go_on"},
        text={"format": {"type": "json_schema", "name": "n", "schema": schema}},
    )
    assert json.loads(said(bound)).keys() == {"n"}


async def test_a_conversation_stands_between_the_functions_messages_and_its_answer(
    http_service: Harness,
) -> None:
    messages = [
        {"role": "system", "content": "You are {{who}}."},
        {"role": "assistant", "content": "{{out}}"},
    ]
    await register(
        http_service,
        "persona",
        messages=messages,
        outputs={"out": {}},
        inputs={"who": {"default": "kind"}},
    )
    prompt = {"id": "persona"}
    first = await ask(http_service, RESPONSES, prompt=prompt, input="Speak #text")
    assert said(first) == "no JSON at all"
    second = await ask(
        http_service, RESPONSES, prompt=prompt, input="And {{now}} #json", previous_response_id=first["id"]
    )
    assert json.loads(said(second))["n"] is None
    # The whole of the first turn stands before the second, and was computed by it.
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"] + 5


async def test_what_is_warm_is_shared_with_the_first_response(http_service: Harness) -> None:
    long = " ".join(f"rule {number}" for number in range(60))
    await register(
        http_service, "warm_one", template=f"{long} {{{{x}}}} #text{{{{out}}}}", outputs={"out": {}}
    )
    warmed = await http_service.client.post("/v1/functions/warm_one/warm")
    assert warmed.status_code == 200, warmed.text
    response = await ask(http_service, RESPONSES, prompt={"id": "warm_one", "variables": {"x": "now"}})
    cached = response["usage"]["input_tokens_details"]["cached_tokens"]
    assert cached == warmed.json()["prefix_tokens"] > 60


async def test_a_registered_function_runs_in_the_background(http_service: Harness) -> None:
    await register(http_service, "later", template="Later #text{{out}}", outputs={"out": {}})
    begun = await ask(http_service, RESPONSES, prompt={"id": "later"}, background=True)
    sid = begun["id"].replace("resp_", "ses_")
    (call,) = (await http_service.client.get(f"/v1/sessions/{sid}/graph")).json()["calls"]
    (variable,) = call["outputs"].values()
    assert (await http_service.variable(sid, variable))["value"] == "no JSON at all"
    ended = (await http_service.client.get(f"{RESPONSES}/{begun['id']}")).json()
    assert (ended["status"], said(ended)) == ("completed", "no JSON at all")
    await http_service.client.delete(f"{RESPONSES}/{begun['id']}")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"prompt": {"id": "pair"}}, 422, "prompt.id"),
        ({"prompt": {"id": "one"}}, 422, "prompt.variables.x"),
        ({"prompt": {"id": "one", "variables": {"x": "a", "y": "b"}}}, 422, "prompt.variables.y"),
        ({"prompt": {"id": "one", "variables": {"x": "a"}}, "input": "more"}, 422, "input"),
        ({"prompt": {"id": "one", "variables": {"x": 5}}}, 422, "prompt.variables.x"),
        ({"prompt": {"id": "one", "version": "9", "variables": {"x": "a"}}}, 404, "prompt.id"),
        ({"prompt": {"id": "one", "variables": {"x": "a"}}, "instructions": "Be"}, 422, "instructions"),
    ],
    ids=str,
)
async def test_what_does_not_suit_the_function_is_refused(
    http_service: Harness, fields: dict[str, object], status: int, param: str
) -> None:
    await register(http_service, "pair", template="a{{b}}c{{d}}", outputs={"b": {}, "d": {}})
    await register(http_service, "one", template="a{{x}}{{out}}", outputs={"out": {}})
    answer = await http_service.client.post(RESPONSES, json=fields)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"].startswith(param)
