"""Agent Framework on a Parrot service: answers, streams, tools, errors, and what workflows say."""

from typing import Any

import pytest

pytest.importorskip(
    "agent_framework_openai", reason="needs the extra agent-framework: nox -s agent_framework"
)

from agent_framework import Agent, Executor, Message, WorkflowBuilder, WorkflowContext, handler
from agent_framework.exceptions import ChatClientException, ChatClientInvalidRequestException
from pydantic import BaseModel

from parrot.errors import NotFoundError, ParrotError, UnreachableError
from parrot.integrations.agent_framework import ParrotChatClient, RequestHints, hints


def asked(text: str) -> list[Message]:
    return [Message("system", ["You are brief."]), Message("user", [text])]


def opening(day: str) -> str:
    """When the zoo opens."""
    return f"On {day}: open at nine"


class Animal(BaseModel):
    animal: str


class Zoo(Executor):
    """Hands on what comes to it."""

    @handler
    async def say(self, text: str, context: WorkflowContext[str]) -> None:
        await context.send_message(text)


class Join(Executor):
    """Makes one prompt of several answers."""

    @handler
    async def join(self, answers: list[Any], context: WorkflowContext[str]) -> None:
        await context.send_message("Combine: " + " / ".join(one.agent_response.text for one in answers))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, chat: Any) -> Any:
    """A client, and what it asked OpenAI's client to send."""
    requests: list[dict[str, Any]] = []
    client = chat()
    create = client.client.chat.completions.create

    async def watched(**request: Any) -> Any:
        requests.append(request)
        return await create(**request)

    monkeypatch.setattr(client.client.chat.completions, "create", watched)
    return client, requests


async def test_an_answer_comes_with_usage_and_reason(chat: Any) -> None:
    response = await chat().get_response(asked("tea"))
    assert response.text
    assert response.usage_details["input_token_count"] > 0
    assert response.finish_reason == "stop"


async def test_a_stream_has_the_same_text(chat: Any) -> None:
    client = chat()
    whole = await client.get_response(asked("tea"))
    stream = client.get_response(asked("tea"), stream=True)
    pieces = [update.text async for update in stream]
    assert "".join(pieces) == whole.text
    assert len([piece for piece in pieces if piece]) > 1
    assert (await stream.get_final_response()).text == whole.text


async def test_options_are_sent(chat: Any) -> None:
    response = await chat().get_response(asked("tea"), options={"max_tokens": 3})
    assert response.usage_details["output_token_count"] == 3


async def test_an_answer_is_bound_to_a_schema(chat: Any) -> None:
    response = await chat().get_response(asked("As JSON"), options={"response_format": Animal})
    assert response.value == Animal(animal="parrot")


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_agent_calls_tools_until_it_answers(chat: Any, *, streaming: bool) -> None:
    agent = Agent(chat(), "You guide.", tools=[opening])
    if streaming:
        text = "".join([update.text async for update in agent.run("When does the zoo open?", stream=True)])
    else:
        text = (await agent.run("When does the zoo open?")).text
    assert text == "It opens at nine."


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_error_has_the_services_error_as_its_cause(chat: Any, *, streaming: bool) -> None:
    async def ask() -> None:
        if streaming:
            async for _ in chat("nobody").get_response(asked("tea"), stream=True):
                pass
        else:
            await chat("nobody").get_response(asked("tea"))

    with pytest.raises(ChatClientInvalidRequestException) as caught:
        await ask()
    assert isinstance(caught.value.__cause__, NotFoundError)


async def test_a_window_that_is_too_short(chat: Any) -> None:
    with pytest.raises(ChatClientInvalidRequestException) as caught:
        await chat().get_response(asked("tea " * 40_000))
    assert isinstance(caught.value.__cause__, ParrotError)
    assert caught.value.__cause__.number == "P1203"


async def test_a_service_that_is_not_there(chat: Any) -> None:
    with pytest.raises(ChatClientException) as caught:
        await chat(url="http://127.0.0.1:1").get_response(asked("tea"))
    assert isinstance(caught.value.__cause__, UnreachableError)


def team(client: ParrotChatClient) -> WorkflowBuilder:
    """Three coders, one of them with a tester, and a reviewer of what they join."""
    start, join = Zoo("start"), Join("join")
    named = {name: Agent(client, f"You are {name}.", name=name) for name in ("a", "b", "c", "test", "review")}
    return (
        WorkflowBuilder(name="team", start_executor=start)
        .add_fan_out_edges(start, [named["a"], named["b"], named["c"]])
        .add_edge(named["c"], named["test"])
        .add_fan_in_edges([named["a"], named["b"], named["test"]], join)
        .add_edge(join, named["review"])
    )


def test_edges_say_stages_and_groups() -> None:
    workflow = team(ParrotChatClient("scripted", base_url="http://127.0.0.1:1/v1")).build()
    found = {name: entry["parrot"] for name, entry in hints(workflow, application="x").items()}
    assert {name: hint.stage for name, hint in found.items()} == {
        "start": 0,
        "a": 1,
        "b": 1,
        "c": 1,
        "test": 2,
        "join": 3,
        "review": 4,
    }
    assert {name: hint.group for name, hint in found.items()} == {
        "start": None,
        "a": "join/1",
        "b": "join/1",
        "c": "join/1",
        "test": "join/2",
        "join": None,
        "review": None,
    }
    assert {hint.application for hint in found.values()} == {"x"}


def test_circles_have_stages_too() -> None:
    first, second, third = Zoo("first"), Zoo("second"), Zoo("third")
    workflow = (
        WorkflowBuilder(start_executor=first)
        .add_edge(first, second)
        .add_edge(second, first)
        .add_edge(second, third)
        .build()
    )
    found = {name: entry["parrot"].stage for name, entry in hints(workflow).items()}
    assert found == {"first": 0, "second": 1, "third": 2}


async def test_a_run_says_what_its_requests_are_a_part_of(sent: Any) -> None:
    client, requests = sent
    workflow = team(client).build()
    outputs = (await workflow.run("a game", client_kwargs=hints(workflow))).get_outputs()
    assert outputs[-1].text
    assert len(requests) == 5
    agents = {request["metadata"]["agent"]: request for request in requests}
    assert set(agents) == {"a", "b", "c", "test", "review"}
    (application,) = {request["extra_body"]["parrot"]["application"] for request in requests}
    assert agents["test"]["extra_body"]["parrot"]["group"] == "join/2"
    assert "group" not in agents["review"]["extra_body"]["parrot"]
    assert agents["a"]["metadata"]["stage"] == "1"
    assert agents["a"]["extra_headers"] == {
        "X-Dynamo-Session-ID": f"{application}/a",
        "X-Dynamo-Parent-Session-ID": application,
    }


async def test_each_run_is_an_application_of_its_own(chat: Any) -> None:
    workflow = team(chat()).build()
    first, second = (next(iter(hints(workflow).values()))["parrot"].application for _ in range(2))
    assert first != second
    assert first.startswith("team-")


async def test_one_agent_can_say_it_too(sent: Any) -> None:
    client, requests = sent
    mine = RequestHints(application="mine")
    agent = Agent(
        client, "You guide.", default_options={"metadata": {"who": "me"}, "extra_body": {"top_k": 1}}
    )
    await agent.run("tea", client_kwargs={"parrot": mine})
    (request,) = requests
    assert request["extra_body"] == {"parrot": {"application": "mine"}, "top_k": 1}
    assert request["metadata"] == {"framework": "agent-framework", "who": "me"}
    assert request["extra_headers"] == {}
