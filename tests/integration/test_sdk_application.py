"""Applications through the SDK on a whole service: what they give, and how they fail."""

import asyncio
import time
from typing import Annotated, Any

import httpx2
import pytest
from sdk_harness import SLOW, application, embedded_session, listening

import parrot
from parrot import Input, Join, Output, native_function, semantic_function
from parrot.errors import CallError, GoneError, InvalidError, NotFoundError, UsageError, WaitTimeoutError
from parrot.sdk.asgi import StreamingASGITransport


@semantic_function(max_tokens=24)
def note(part: Input, text: Output) -> None:
    """Read this part of a document.
    {{part}}
    Note: {{text}}
    """


@semantic_function(max_tokens=24)
def combine(notes: Annotated[Input, Join("\n- ")], heading: Output, whole: Output) -> None:
    """Combine:
    - {{notes}}
    Heading: {{heading}}
    Text: {{whole}}
    """


@semantic_function
def list_colours(topic: Input, colours: Output[list[str]]) -> None:
    """Colours of {{topic}}. List: {{colours}}"""


@semantic_function
def list_wrongly(topic: Input, colours: Output[list[str]]) -> None:
    """Colours of {{topic}}. Not a list: {{colours}}"""


@semantic_function(max_tokens=4000, ignore_eos=True)
def ramble(subject: Input, text: Output) -> None:
    """Talk about {{subject}}: {{text}}"""


@native_function
def shout(text: str) -> str:
    return text.upper()


@native_function
def break_down(text: str) -> str:
    raise ValueError("cannot")


async def test_a_graph_with_native_functions_runs_and_draws_itself() -> None:
    async with embedded_session(name="maps") as session:
        async with session.batch():
            notes = [note(f"part {number}") for number in range(4)]
            result: Any = combine([shout(notes[0]), *notes[1:]])
        heading, whole = await session.gather(*result, objective="latency", timeout_s=20)
        graph = await session.graph()
    assert len(heading) > 10
    assert len(whole) > 10
    names = [[node.name for node in stage] for stage in graph.stages()]
    assert names == [["note_1", "note_2", "note_3", "note_4"], ["shout_5"], ["combine_6"]]
    assert len(graph.edges) == 5
    assert sum(node.num_shared_tokens for node in graph.nodes) > 0


async def test_typed_outputs_come_parsed_and_travel_as_json() -> None:
    async with embedded_session():
        colours = list_colours("flags")
        assert await colours.get(timeout_s=20) == ["red", "green"]
        assert await colours.text() == '["red","green"]'
        with pytest.raises(CallError) as caught:
            await list_wrongly("flags").get(timeout_s=20)
    assert caught.value.code == "bad_value"


async def test_streamed_pieces_joined_are_the_value() -> None:
    async with embedded_session(SLOW):
        text = note("part")
        pieces = [piece async for piece in text.stream(objective="latency")]
        assert len(pieces) > 2
        assert "".join(pieces) == await text


async def test_input_variables_may_be_set_after_their_calls() -> None:
    async with embedded_session() as session:
        part = session.variable("part")
        text = note(part)
        with pytest.raises(WaitTimeoutError):
            await text.get(timeout_s=0.05)
        await part.set("late")
        late = await text.get(timeout_s=20)
        assert late == await note("late")


async def test_failing_native_function_reaches_everyone_who_waits() -> None:
    async with embedded_session() as session:
        broken = break_down(note("part"))
        await_early = asyncio.create_task(note(broken).get(timeout_s=20))
        outcomes = await asyncio.gather(
            broken.get(timeout_s=20), await_early, note(broken).get(timeout_s=20), return_exceptions=True
        )
        graph = await session.graph()
    errors = [outcome for outcome in outcomes if isinstance(outcome, CallError)]
    assert [error.code for error in errors] == ["native_failed", "upstream_failed", "upstream_failed"]
    assert [error.data.get("root") for error in errors[1:]] == ["native_failed"] * 2
    assert {node.state for node in graph.nodes} <= {"done", "failed", "cancelled"}


async def test_cancelled_branch_fails_and_its_sibling_goes_on() -> None:
    async with embedded_session(SLOW) as session:
        doomed, sibling = ramble("a"), note("b")
        after = note(doomed)
        await asyncio.sleep(0.05)
        assert len(await session.cancel(doomed)) == 2
        for variable in (doomed, after):
            with pytest.raises(CallError):
                await variable.get(timeout_s=20)
        assert len(await sibling.get(timeout_s=20)) > 0


async def test_what_the_service_refuses_is_raised_at_get() -> None:
    @semantic_function(model="no-such-model")
    def ask(text: Input, out: Output) -> None:
        """Say {{text}}: {{out}}"""

    async with embedded_session():
        with pytest.raises(NotFoundError) as caught:
            await ask("x")
    assert caught.value.code == "model_not_found"


async def test_a_joined_list_longer_than_a_call_takes_is_refused_when_called() -> None:
    async with embedded_session():
        with pytest.raises(InvalidError, match="at most 128"):
            combine(["x"] * 200)


async def test_deadline_of_a_session_fails_what_is_not_ready() -> None:
    async with embedded_session(SLOW, deadline_s=0.3):
        with pytest.raises(CallError) as caught:
            await ramble("everything").get(timeout_s=20)
    assert caught.value.code == "deadline"


async def test_events_tell_a_calls_life() -> None:
    async with embedded_session() as session:
        await note("part")
        names = []
        events = session.events()
        async for event in events:
            names.append(event.name)
            if event.name == "call_finished":
                break
        await events.aclose()
    assert names[0] == "session_opened"
    assert [name for name in names if name in ("calls_submitted", "variable_ready", "call_finished")] == [
        "calls_submitted",
        "variable_ready",
        "call_finished",
    ]


async def test_waiting_ends_when_the_session_is_closed_from_elsewhere() -> None:
    async with application(SLOW) as app, listening(app) as url, parrot.connect(url) as session:
        waiting = asyncio.create_task(ramble("a").get())
        await asyncio.sleep(0.1)
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as http:
            deleted = await http.delete(f"/v1/sessions/{session.id}")
        assert deleted.status_code == 204
        with pytest.raises((GoneError, CallError)):
            await asyncio.wait_for(waiting, 5)


async def test_leaving_a_session_stops_its_work() -> None:
    async with application(SLOW) as app, listening(app) as url:
        async with parrot.connect(url):
            ramble("a")
            ramble("b")
            await asyncio.sleep(0.1)
        began = time.perf_counter()
        while (load := app.service.engines().engines[0]).num_owned_blocks:
            await asyncio.sleep(0.02)
            assert time.perf_counter() - began < 30
        assert load.num_running == 0


async def test_two_sessions_of_one_program_do_not_mix() -> None:
    async with (
        application() as app,
        listening(app) as url,
        parrot.connect(url) as one,
        parrot.connect(url) as other,
    ):
        first, second = note.using(one)("x"), note.using(other)("x")
        assert await first == await second
        with pytest.raises(UsageError):
            other.call(note, first)


def test_blocking_session_runs_embedded_from_its_name_alone() -> None:
    with parrot.connect_sync(engine="scripted") as session:
        text = session.call(note, part="x")
        assert "".join(text.stream()) == text.get(timeout_s=20)
        assert [node.state for node in session.graph().nodes] == ["done"]


class AnswerLost(StreamingASGITransport):
    """Loses the first answer to a submission, after the service has committed it."""

    lost = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if request.url.path.endswith("/run") and not self.lost:
            self.lost += 1
            await response.aclose()
            raise httpx2.ReadError("cut", request=request)
        return response


async def test_submission_whose_answer_was_lost_is_not_made_twice() -> None:
    async with application() as app:
        transport = AnswerLost(app)
        async with parrot.connect(transport=transport) as session:
            text = await note("part").get(timeout_s=20)
            graph = await session.graph()
    assert transport.lost == 1
    assert len(text) > 0
    assert len(graph.nodes) == 1


async def test_many_calls_of_one_tick_come_back_in_order() -> None:
    async with embedded_session() as session:
        variables = [note(f"part {number % 10}") for number in range(300)]
        values = await session.gather(*variables, timeout_s=60)
    assert values[:10] == values[10:20]
    assert len(set(values)) == 10
