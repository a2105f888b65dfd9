"""What a session sends, in which order, and how failures come back."""

import asyncio
import os
import time
from typing import Annotated, Any

import httpx2
import pytest
from fake_service import FakeService, error_response, open_session, sse

import parrot
from parrot import Input, Join, Output, native_function, semantic_function
from parrot.errors import (
    CallError,
    ConflictError,
    InvalidError,
    NotFoundError,
    ParrotError,
    TemplateError,
    UnavailableError,
    UnreachableError,
    UsageError,
    WaitTimeoutError,
)
from parrot.sdk.retry import RetryPolicy


@semantic_function(max_tokens=5)
def write_code(task: Input, code: Output) -> None:
    """Write {{task}}: {{code}}"""


@semantic_function
def write_test(task: Input, code: Input, test: Output) -> None:
    """Test {{code}} for {{task}}: {{test}}"""


@semantic_function
def review(code: Input, praise: Output, blame: Output) -> None:
    """Review {{code}}: good {{praise}}, bad {{blame}}"""


@semantic_function
def list_names(topic: Input, names: Output[list[str]]) -> None:
    """Names for {{topic}}: {{names}}"""


@pytest.fixture
def service() -> FakeService:
    return FakeService()


def pending() -> dict[str, Any]:
    return {"state": "pending"}


async def test_calls_of_one_tick_go_in_one_request_linked_by_names(service: FakeService) -> None:
    async with open_session(service):
        code = write_code(task="a game")
        test = write_test("a game", code=code)
        assert await test.get() == "TEST"
        assert await code == "CODE"
    (submission,) = service.submissions
    first, second = submission["calls"]
    assert first["template"] == "Write {{task}}: {{code}}"
    assert first["parameters"]["code"]["output"]["sampling"] == {"max_tokens": 5}
    assert second["parameters"]["code"] == {"variable": first["parameters"]["code"]["output"]["variable"]}
    assert second["parameters"]["task"] == {"value": "a game"}


async def test_dependent_call_does_not_wait_for_the_answer_about_its_input(service: FakeService) -> None:
    service.submit_gate = asyncio.Event()
    async with open_session(service):
        code = write_code(task="a")
        await asyncio.sleep(0.01)
        tests = [write_test("a", code) for _ in range(3)]
        await asyncio.sleep(0.01)
        service.submit_gate.set()
        assert [await test for test in tests] == ["TEST"] * 3
    assert [len(submission["calls"]) for submission in service.submissions] == [1, 3]


async def test_several_outputs_come_as_a_named_tuple(service: FakeService) -> None:
    async with open_session(service):
        result: Any = review(code="x")
        assert result._fields == ("praise", "blame")
        assert (await result.praise.get(), await result.blame.get()) == ("PRAISE", "BLAME")


async def test_typed_output_is_parsed_and_bad_text_is_bad_value(service: FakeService) -> None:
    service.answers["names"] = {"state": "ready", "value": '["a", "b"]'}
    async with open_session(service):
        names = list_names("x")
        assert await names.get() == ["a", "b"]
        assert await names.text() == '["a", "b"]'
        service.answers["names"] = {"state": "ready", "value": '"a"'}
        with pytest.raises(CallError) as caught:
            await list_names("x").get()
    assert caught.value.code == "bad_value"


async def test_batch_waits_for_its_end_and_goes_in_one_request(service: FakeService) -> None:
    async with open_session(service) as session:
        async with session.batch():
            code = write_code(task="a")
            await asyncio.sleep(0.01)
            test = write_test("a", code)
            async with session.batch():
                write_code(task="b")
            assert service.submissions == []
            with pytest.raises(UsageError, match="batch"):
                await test.get()
        assert [len(submission["calls"]) for submission in service.submissions] == [3]
        assert code.id == f"id_{code.name}"


async def test_batch_whose_block_raises_sends_nothing(service: FakeService) -> None:
    async with open_session(service) as session:
        with pytest.raises(KeyError):  # noqa: PT012
            async with session.batch():
                code = write_code(task="a")
                raise KeyError("x")
        with pytest.raises(UsageError, match="given up"):
            await code.get()
    assert service.submissions == []


async def test_calls_outside_an_abandoned_batch_that_wait_for_it_are_cancelled(service: FakeService) -> None:
    service.answers["test"] = {"state": "failed", "error": {"code": "cancelled", "message": "cancelled"}}
    async with open_session(service) as session:
        inside: list[Any] = []
        entered, leave = asyncio.Event(), asyncio.Event()

        async def give_up() -> None:
            async with session.batch():
                inside.append(write_code(task="a"))
                entered.set()
                await leave.wait()
                raise KeyError("x")

        task = asyncio.create_task(give_up())
        await entered.wait()
        outside = write_test("a", inside[0])
        await asyncio.sleep(0.01)
        leave.set()
        with pytest.raises(KeyError):
            await task
        with pytest.raises(CallError) as caught:
            await outside
        await asyncio.sleep(0.01)
    assert (caught.value.code, caught.value.data["root"]) == ("upstream_failed", "bad_usage")
    assert service.cancels == [{"variables": [inside[0].name]}]


async def test_refused_submission_is_raised_at_get_and_at_batch_end(service: FakeService) -> None:
    service.fail("POST .*/run", error_response(422, "unused_parameter"), times=2)
    async with open_session(service) as session:
        with pytest.raises(TemplateError) as caught:
            await write_code(task="a").get()
        assert caught.value.code == "unused_parameter"
        batch = session.batch()
        await batch.__aenter__()
        write_code(task="a")
        with pytest.raises(TemplateError):
            await batch.__aexit__(None, None, None)


async def test_call_on_a_variable_whose_submission_failed_is_never_sent(service: FakeService) -> None:
    service.fail("POST .*/run", error_response(422, "cycle"))
    async with open_session(service):
        code = write_code(task="a")
        with pytest.raises(ParrotError):
            await code
        with pytest.raises(CallError) as caught:
            await write_test("a", code)
    assert (caught.value.code, caught.value.data["root"]) == ("upstream_failed", "cycle")
    assert service.submissions == []


@pytest.mark.parametrize(
    "fault",
    [
        httpx2.ConnectError("refused"),
        httpx2.ReadError("reset"),
        httpx2.RemoteProtocolError("cut"),
        error_response(503, "unavailable"),
        httpx2.Response(502, text="<html>bad gateway</html>", headers={"content-type": "text/html"}),
        error_response(409, "request_in_flight"),
    ],
)
async def test_submission_is_sent_again_under_the_same_key(
    service: FakeService, fault: httpx2.Response | Exception
) -> None:
    seen: list[str] = []

    def remember(request: httpx2.Request) -> httpx2.Response | Exception:
        seen.append(request.headers["idempotency-key"])
        return fault

    service.fail("POST .*/run", remember)
    async with open_session(service):
        assert await write_code(task="a") == "CODE"
        assert await write_code(task="b") == "CODE"
    assert seen == service.keys[:1]
    assert service.keys[0] != service.keys[1]


async def test_retries_are_bounded(service: FakeService) -> None:
    service.fail("POST .*/run", error_response(503, "draining"), times=9)
    async with open_session(service):
        with pytest.raises(UnavailableError) as caught:
            await write_code(task="a")
    assert caught.value.code == "draining"
    assert len([line for line in service.requests if line[1].endswith("/run")]) == 4


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(200, text="<html>hello</html>", headers={"content-type": "text/html"}),
        httpx2.Response(404, text="<html>not found</html>", headers={"content-type": "text/html"}),
        httpx2.Response(302, headers={"location": "http://127.0.0.1/login"}),
        httpx2.Response(200, json={"variable_id": "v", "name": None, "state": "pondering"}),
        httpx2.Response(200, json={"variable_id": "v", "name": None, "state": "ready"}),
        httpx2.Response(200, content=b"\xff\xfe"),
    ],
)
async def test_answer_that_is_not_parrots_is_bad_answer(
    service: FakeService, answer: httpx2.Response
) -> None:
    service.tells = False
    service.fail("GET .*/variables/", answer)
    async with open_session(service):
        with pytest.raises(UnreachableError) as caught:
            await write_code(task="a")
    assert caught.value.code == "bad_answer"


async def test_wait_times_out_at_its_time_and_the_call_goes_on(service: FakeService) -> None:
    service.answers["code"] = pending()
    async with open_session(service):
        code = write_code(task="a")
        began = time.perf_counter()
        with pytest.raises(WaitTimeoutError, match=r"within 0\.1 s"):
            await code.get(timeout_s=0.1, objective="latency")
        assert 0.09 < time.perf_counter() - began < 20
        assert service.polls[0]["objective"] == "latency"
        with pytest.raises(WaitTimeoutError):
            await code.get(timeout_s=0)
        service.variables[code.name] = {"state": "ready", "value": "late"}
        assert await code.get(timeout_s=0) == "late"


async def test_wait_for_a_call_that_is_not_taken_says_so_and_why(service: FakeService) -> None:
    service.fail("POST .*/run", error_response(429, "over_limit", "64 sessions are open"), times=50)
    slow = RetryPolicy(attempts=50, first_delay_s=0.05, max_delay_s=0.05)
    async with open_session(service, retry=slow):
        code = write_code(task="a")
        with pytest.raises(WaitTimeoutError, match="has not been taken yet: 64 sessions are open") as caught:
            await code.get(timeout_s=0.1)
        assert "goes on" not in caught.value.message
        service.faults.clear()
        assert await code == "CODE"
        service.answers["code"] = pending()
        with pytest.raises(WaitTimeoutError, match="its call goes on"):
            await write_code(task="b").get(timeout_s=0.2)


@pytest.mark.parametrize(
    "options", [{"timeout_s": -1}, {"timeout_s": float("nan")}, {"timeout_s": True}, {"objective": "soon"}]
)
async def test_wrong_wait_is_refused_before_the_network(
    service: FakeService, options: dict[str, Any]
) -> None:
    async with open_session(service):
        code = write_code(task="a")
        with pytest.raises(UsageError):
            await code.get(**options)
    assert service.polls == []


async def test_failed_variable_raises_its_error(service: FakeService) -> None:
    service.answers["code"] = {
        "state": "failed",
        "error": {"code": "context_overflow", "message": "too long", "data": {"limit": 5}},
    }
    async with open_session(service):
        with pytest.raises(CallError) as caught:
            await write_code(task="a")
    assert (caught.value.code, caught.value.data) == ("context_overflow", {"limit": 5})


@pytest.mark.parametrize("value", [b"bytes", None, 5, ["list"], object()])
async def test_input_that_is_no_text_is_a_type_error_before_the_network(
    service: FakeService, value: Any
) -> None:
    async with open_session(service) as session:
        with pytest.raises(TypeError, match="task takes a str or a semantic variable"):
            write_code(task=value)
        with pytest.raises(TypeError):
            await session.variable("v").set(value)
        with pytest.raises(TypeError, match="missing a required argument: 'task'"):
            write_code()
        with pytest.raises(TypeError, match="unexpected keyword argument 'code'"):
            write_code(task="a", code="b")
    assert service.submissions == []


@pytest.mark.parametrize(
    ("text", "code", "meaning"),
    [("a\x00b", "nul_not_allowed", "U\\+0000"), ("\ud800", "invalid_unicode", "surrogate")],
)
async def test_text_that_cannot_travel_is_refused_before_the_network(
    service: FakeService, text: str, code: str, meaning: str
) -> None:
    async with open_session(service) as session:
        with pytest.raises(InvalidError, match=meaning) as caught:
            write_code(task=text)
        assert (caught.value.code, caught.value.param) == (code, "task")
        with pytest.raises(InvalidError, match=meaning) as caught:
            await session.variable("v").set(text)
        assert (caught.value.code, caught.value.param) == (code, "value")
    assert service.submissions == []


@semantic_function
def combine(notes: Annotated[Input, Join(" / ")], whole: Output) -> None:
    """Combine {{notes}}: {{whole}}"""


async def test_joined_inputs_link_every_member(service: FakeService) -> None:
    wrong_value: Any = 5
    async with open_session(service):
        codes = [write_code(task=task) for task in "ab"]
        assert await combine([*codes, "own"]) == "WHOLE"
        with pytest.raises(TypeError, match="notes_1 takes a str"):
            combine(["a", wrong_value])
    parameters = service.submissions[0]["calls"][2]["parameters"]
    assert parameters["notes_0"] == {"variable": codes[0].name}
    assert parameters["notes_2"] == {"value": "own"}
    assert service.submissions[0]["calls"][2]["template"].count("{{") == 4


async def test_input_variables_are_set_once_and_read_back(service: FakeService) -> None:
    async with open_session(service) as session:
        document = session.variable("document")
        code = write_code(task=document)
        await document.set("text")
        now = session.variable("now", "today")
        assert (await document, await now, await code) == ("text", "today", "CODE")
        assert session.variable("document") is document
        service.fail("PUT", error_response(409, "already_set"))
        with pytest.raises(ConflictError):
            await session.variable("third").set("x")
        service.fail("PUT", error_response(409, "already_set"))
        with pytest.raises(ConflictError):
            await now.set("tomorrow")
        with pytest.raises(UsageError, match="produced by a call"):
            await code.set("x")
        with pytest.raises(UsageError):
            session.variable("not a name")
    assert service.puts == {"document": "text", "now": "today"}
    assert service.submissions[0]["calls"][0]["parameters"]["task"] == {"variable": "document"}


async def test_input_variable_that_the_service_refuses_fails_whoever_needs_it(service: FakeService) -> None:
    service.fail("POST .*/run", error_response(413, "too_large"))
    async with open_session(service) as session:
        big = session.variable("big", "x" * 100)
        with pytest.raises(ParrotError) as refused:
            await write_code(task=big)
        with pytest.raises(ParrotError) as there:
            await big
        with pytest.raises(CallError) as caught:
            await write_code(task=big)
    assert [refused.value.code, there.value.code] == ["too_large"] * 2
    assert (caught.value.code, caught.value.data["root"]) == ("upstream_failed", "too_large")


async def test_variables_of_another_session_are_refused(service: FakeService) -> None:
    async with open_session(service) as one, open_session(FakeService()) as other:
        code = write_code.using(one)(task="a")
        with pytest.raises(UsageError, match="another session"):
            other.call(write_test, "a", code)


async def test_innermost_session_is_the_current_one(service: FakeService) -> None:
    inner_service = FakeService()
    async with open_session(service):
        async with open_session(inner_service):
            await write_code(task="inner")
        await write_code(task="outer")
    assert [s["calls"][0]["parameters"]["task"]["value"] for s in service.submissions] == ["outer"]
    assert len(inner_service.submissions) == 1


async def test_gather_gives_values_in_order_and_the_first_error(service: FakeService) -> None:
    async with open_session(service) as session:
        result: Any = review(code="x")
        assert await session.gather(*result) == ("PRAISE", "BLAME")
        service.answers["code"] = {"state": "failed", "error": {"code": "deadline", "message": "late"}}
        with pytest.raises(CallError) as caught:
            await session.gather(write_code(task="a"), *result)
    assert caught.value.code == "deadline"


async def test_cancel_names_the_variables_after_their_submission(service: FakeService) -> None:
    async with open_session(service) as session:
        code = write_code(task="a")
        assert await session.cancel(code) == ("call_1",)
    assert service.cancels == [{"variables": [f"id_{code.name}"]}]


async def test_session_is_deleted_at_the_end_also_when_the_body_raises(service: FakeService) -> None:
    with pytest.raises(KeyError):  # noqa: PT012
        async with open_session(service):
            await write_code(task="a")
            raise KeyError("x")
    assert service.deleted == ["ses_1"]


async def test_kept_session_is_not_deleted_and_everything_is_submitted(service: FakeService) -> None:
    async with open_session(service, keep=True):
        write_code(task="a")
    assert service.deleted == []
    assert len(service.submissions) == 1


async def test_delete_that_fails_does_not_hide_the_result(service: FakeService) -> None:
    service.fail("DELETE", httpx2.ConnectError("gone"))
    async with open_session(service):
        assert await write_code(task="a") == "CODE"
    assert service.deleted == []


async def test_use_after_close_is_refused_at_once(service: FakeService) -> None:
    async with open_session(service) as session:
        code = write_code(task="a")
        await code
    uses: list[Any] = [
        code.get,
        lambda: anext(code.stream()),
        session.graph,
        lambda: session.cancel(code),
    ]
    for use in uses:
        with pytest.raises(UsageError, match="closed"):
            await use()
    with pytest.raises(UsageError, match="closed"):
        session.call(write_code, task="b")


async def test_variable_that_was_never_submitted_fails_when_the_session_closes(service: FakeService) -> None:
    async with open_session(service) as session:
        await session.open()
        service.submit_gate = asyncio.Event()
        waiting = asyncio.create_task(write_code(task="a").get())
        await asyncio.sleep(0.01)
    with pytest.raises(UsageError, match="closed"):
        await waiting


async def test_use_in_another_loop_or_thread_is_refused(service: FakeService) -> None:
    async with open_session(service) as session:
        code = write_code(task="a")

        def elsewhere() -> str:
            with pytest.raises(UsageError, match="another event loop"):
                asyncio.run(code.get())
            with pytest.raises(UsageError, match="another thread"):
                session.call(write_code, task="b")
            return "refused"

        assert await asyncio.to_thread(elsewhere) == "refused"


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
async def test_use_across_a_fork_is_refused(service: FakeService) -> None:
    async with open_session(service) as session:
        child = os.fork()
        if child == 0:
            try:
                session.call(write_code, task="a")
            except UsageError:
                os._exit(7)
            os._exit(1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


async def test_native_function_that_the_sessions_end_stops_fails_for_who_waits(service: FakeService) -> None:
    service.answers["code"] = pending()
    async with open_session(service, keep=True):
        joined = join([write_code(task="a")])
        write_test("t", joined)
        waiting = asyncio.create_task(joined.get())
        await asyncio.sleep(0.01)
    with pytest.raises(UsageError, match="closed"):
        await waiting
    assert service.cancels == [{"variables": [joined.name]}]


async def test_stream_gives_pieces_and_resumes_where_it_broke(service: FakeService) -> None:
    def delta(text: str, ident: str, attempt: int = 1) -> tuple[str, object, str]:
        return ("delta", {"attempt": attempt, "text": text}, ident)

    ready = {"variable_id": "v", "name": None, "state": "ready", "value": "abcdef"}
    service.streams = [
        sse(delta("ab", "1"), delta("c", "2")),
        sse(("reset", {"attempt": 2}, "3"), delta("abcd", "4", 2)),
        sse(("ready", ready, "5")),
    ]
    async with open_session(service):
        code = write_code(task="a")
        assert [piece async for piece in code.stream(objective="latency")] == ["ab", "c", "d", "ef"]
    assert service.last_event_ids == [None, "2", "4"]


async def test_stream_that_the_service_breaks_off_for_a_while_is_taken_up(service: FakeService) -> None:
    ready = {"variable_id": "v", "name": None, "state": "ready", "value": "ab"}
    service.streams = [
        sse(("error", {"error": {"code": "draining", "message": "restarting"}}, "")),
        sse(("ready", ready, "1")),
    ]
    async with open_session(service):
        assert [piece async for piece in write_code(task="a").stream()] == ["ab"]
    assert len(service.last_event_ids) == 2


async def test_stream_that_the_service_breaks_off_each_time_is_given_up(service: FakeService) -> None:
    service.streams = [
        sse(("error", {"error": {"code": "draining", "message": "restarting"}}, "")) for _ in range(9)
    ]
    async with open_session(service):
        with pytest.raises(UnavailableError, match="restarting"):
            async for _ in write_code(task="a").stream():
                pass
    assert len(service.last_event_ids) == 4


async def test_stream_that_a_restart_threw_back_begins_anew(service: FakeService) -> None:
    ready = {"variable_id": "v", "name": None, "state": "ready", "value": "abcd"}
    service.streams = [
        sse(("delta", {"attempt": 1, "text": "abc"}, "1.3")),
        error_response(409, "event_from_future"),
        sse(("delta", {"attempt": 2, "text": "ab"}, "2.2"), ("ready", ready, "2.4")),
    ]
    async with open_session(service):
        assert [piece async for piece in write_code(task="a").stream()] == ["abc", "d"]
    assert service.last_event_ids == [None, "1.3", None]


async def test_stream_of_another_attempt_with_other_text_raises_stream_reset(service: FakeService) -> None:
    service.streams = [
        sse(
            ("delta", {"attempt": 1, "text": "ab"}, "1"),
            ("reset", {"attempt": 2}, "2"),
            ("delta", {"attempt": 2, "text": "x"}, "3"),
        )
    ]
    async with open_session(service):
        pieces = write_code(task="a").stream()
        assert await anext(pieces) == "ab"
        with pytest.raises(ParrotError) as caught:
            await anext(pieces)
    assert caught.value.code == "stream_reset"


async def test_stream_of_a_failed_variable_raises_its_error(service: FakeService) -> None:
    error = {"code": "deadline", "message": "late"}
    service.streams = [
        sse(("failed", {"variable_id": "v", "name": None, "state": "failed", "error": error}, "1"))
    ]
    async with open_session(service):
        with pytest.raises(CallError) as caught:
            await anext(write_code(task="a").stream())
    assert caught.value.code == "deadline"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (httpx2.Response(200, text="<html>", headers={"content-type": "text/html"}), "bad_answer"),
        (
            httpx2.Response(200, text="event: delta\ndata: {", headers={"content-type": "text/event-stream"}),
            "bad_answer",
        ),
        (sse(("delta", {"no": "text"}, "1")), "bad_answer"),
        (sse(("error", {"error": {"code": "session_expired", "message": "over"}}, "1")), "session_expired"),
        (error_response(404, "not_found"), "not_found"),
    ],
)
async def test_broken_streams_end_in_a_typed_error(
    service: FakeService, answer: httpx2.Response, code: str
) -> None:
    service.tells = False
    service.fail(
        "GET .*/stream",
        lambda _: httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content),
        times=9,
    )
    async with open_session(service):
        with pytest.raises(ParrotError) as caught:
            await anext(write_code(task="a").stream())
    assert caught.value.code == code


@native_function
def join(parts: list[str], separator: str = ", ") -> str:
    return separator.join(parts)


@native_function
def explode(text: str) -> str:
    raise KeyError(f"no {text}")


@native_function
async def count(texts: dict[str, str]) -> int:
    await asyncio.sleep(0)
    return len(texts)


@native_function
def wrong(text: str) -> str:
    return 5  # type: ignore[return-value]


async def test_native_function_runs_when_its_inputs_are_ready_and_feeds_calls(service: FakeService) -> None:
    async with open_session(service):
        codes = [write_code(task=task) for task in "ab"]
        joined = join(codes, separator="+")
        assert await write_test("t", joined) == "TEST"
        assert await joined == "CODE+CODE"
        assert [piece async for piece in joined.stream()] == ["CODE+CODE"]
        assert await count({"x": codes[0]}) == 1
    assert service.puts[joined.name] == "CODE+CODE"
    assert len(service.submissions) == 1


async def test_native_function_that_raises_fails_everything_after_it(service: FakeService) -> None:
    service.answers["test"] = {"state": "failed", "error": {"code": "cancelled", "message": "cancelled"}}
    async with open_session(service):
        bad = explode(write_code(task="a"))
        early = write_test("t", bad)
        with pytest.raises(CallError, match=r"explode.* raised KeyError: 'no CODE'") as native:
            await bad
        for dependent in (early, write_test("t", bad), join([bad])):
            with pytest.raises(CallError) as caught:
                await dependent
            assert (caught.value.code, caught.value.data["root"]) == ("upstream_failed", "native_failed")
    assert native.value.code == "native_failed"
    assert service.cancels == [{"variables": [bad.name]}]
    assert len(service.submissions) == 1


async def test_native_function_of_a_failed_call_fails_with_its_root(service: FakeService) -> None:
    service.answers["code"] = {"state": "failed", "error": {"code": "deadline", "message": "late"}}
    async with open_session(service):
        with pytest.raises(CallError) as caught:
            await join([write_code(task="a")])
    assert (caught.value.code, caught.value.data["root"]) == ("upstream_failed", "deadline")


async def test_native_result_of_another_type_than_declared_is_native_failed(service: FakeService) -> None:
    async with open_session(service):
        with pytest.raises(CallError, match=r"declare it as `-> int`") as caught:
            await wrong("x")
        with pytest.raises(TypeError, match="missing a required argument"):
            join()
    assert caught.value.code == "native_failed"


async def test_cancelled_native_function_cancels_its_consumers(service: FakeService) -> None:
    service.answers["code"] = pending()
    async with open_session(service) as session:
        joined = join([write_code(task="a")])
        write_test("t", joined)
        await asyncio.sleep(0.01)
        await session.cancel(joined)
        with pytest.raises(CallError) as caught:
            await joined
    assert caught.value.code == "cancelled"
    assert service.cancels == [{"variables": [joined.name]}]


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://x"},
        {"url": "127.0.0.1:8321"},
        {"url": "http://example.com", "api_key": "k"},
        {"url": "http://127.0.0.1", "name": "a\nb"},
        {"url": "http://127.0.0.1", "deadline_s": -1.0},
        {"url": "http://127.0.0.1", "engine": "scripted"},
    ],
)
async def test_connect_refuses_what_cannot_work(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        async with parrot.connect(**options):
            pass


async def test_key_is_sent_over_plain_http_only_when_told(service: FakeService) -> None:
    seen: list[str | None] = []

    def look(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers.get("authorization"))
        return error_response(401, "unauthenticated")

    service.fail("POST /v1/run", look, times=2)
    for url, insecure in (("http://example.com", True), ("https://example.com", False)):
        with pytest.raises(ParrotError, match="unauthenticated"):
            async with parrot.connect(
                url, api_key="secret", insecure=insecure, transport=httpx2.MockTransport(service)
            ) as session:
                await session.open()
    assert seen == ["Bearer secret", "Bearer secret"]


async def test_address_with_the_interfaces_path_is_told_to_be_without(service: FakeService) -> None:
    transport = httpx2.MockTransport(service)
    async with parrot.connect("http://127.0.0.1:1/v1", transport=transport):
        with pytest.raises(NotFoundError, match=r"127\.0\.0\.1:1/v1 .* without /v1"):
            await write_code(task="a")


async def test_nothing_listening_is_said_soon_with_the_address() -> None:
    began = time.perf_counter()
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9 "):
        async with parrot.connect("http://127.0.0.1:9"):
            await write_code(task="a")
    assert time.perf_counter() - began < 30
