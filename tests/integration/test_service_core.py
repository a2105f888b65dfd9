"""The core as a whole, on scripted engines: values flow, failures spread, nothing is lost or paid twice."""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from core_harness import TENANT, call, get, open_session, running_service, submit

from parrot.core.limits import Limits
from parrot.core.service import Service, StreamItem
from parrot.engine.scripted_config import ScriptedAnswer, ScriptedConfig, ScriptedFault
from parrot.errors import (
    CallError,
    ConflictError,
    GoneError,
    GraphError,
    InvalidError,
    MalformedError,
    NotFoundError,
    OverLimitError,
    UnavailableError,
)
from parrot.store import StoreConfig, open_store
from parrot.types.ids import TenantId
from parrot.wire.answers import CallNode
from parrot.wire.requests import CancelRequest, SessionCreate, SetVariable, SubmitCalls

SLOW = ScriptedConfig(decode_step_s=0.02, tokens_per_step=1)


def node(service: Service, sid: str, name: str) -> CallNode:
    return next(call for call in service.graph(TENANT, sid).calls if call.name == name)


async def stream(service: Service, sid: str, ref: str, after: str | None = None) -> list[StreamItem]:
    return [item async for item in service.stream_variable(TENANT, sid, ref, last_event_id=after)]


def joined(items: list[StreamItem]) -> str:
    texts: list[str] = []
    for item in items:
        if item.event == "reset":
            texts.clear()
        elif item.event == "delta":
            texts.append(str(item.data["text"]))
    return "".join(texts)


async def test_a_chain_hands_its_values_on_inside_the_service() -> None:
    answers = (
        ScriptedAnswer(pattern="Say one.", answer="uno"),
        ScriptedAnswer(pattern="Translate uno:", answer="one"),
    )
    async with running_service(ScriptedConfig(answers=answers)) as service:
        sid = await open_session(service)
        await submit(
            service,
            sid,
            {
                "template": "Translate {{word}}:{{out}}",
                "parameters": {"word": {"variable": "a"}, "out": {"output": {"variable": "b"}}},
            },
            {"template": "Say one.{{out}}", "parameters": {"out": {"output": {"variable": "a"}}}},
        )
        assert (await get(service, sid, "b")).value == "one"
        assert (await get(service, sid, "a")).value == "uno"


async def test_results_do_not_depend_on_how_calls_are_submitted() -> None:
    calls = [call("First {{x}}: {{out}}", "a", x="text"), call("Then {{y}}: {{out}}", "b", y="$a")]
    async with running_service() as service:
        together = await open_session(service)
        await submit(service, together, *calls)
        apart = await open_session(service)
        for one in reversed(calls):
            await submit(service, apart, one)
        by_hand = await open_session(service)
        await submit(service, by_hand, calls[0])
        first = (await get(service, by_hand, "a")).value or ""
        await submit(service, by_hand, call("Then {{y}}: {{out}}", "b", y=first))
        values = [(await get(service, sid, "b")).value for sid in (together, apart, by_hand)]
        assert values[0]
        assert values[0] == values[1] == values[2]


async def test_calls_that_share_a_prefix_fill_it_once() -> None:
    prompt = "You are a very patient assistant with a long list of rules. " * 40
    async with running_service(ScriptedConfig(prefill_tokens_per_s=20_000)) as service:
        sid = await open_session(service)
        calls = [call(prompt + "{{q}} {{out}}", f"a{i}", q=f"Question {i}?") for i in range(10)]
        await submit(service, sid, *calls)
        for i in range(10):
            assert (await get(service, sid, f"a{i}")).state == "ready"
        nodes = service.graph(TENANT, sid).calls
        shared = sorted(n.tokens.shared for n in nodes)
        constant = max(shared)
        assert constant > 300
        assert shared == [0] + [constant] * 9
        (engine,) = service.engines().engines
        assert engine.num_prefilled_tokens < constant + sum(n.tokens.prompt - constant for n in nodes) + 20


async def test_a_second_turn_continues_the_context_of_the_first() -> None:
    async with running_service() as service:
        sid = await open_session(service)
        long = "Some history. " * 50
        await submit(service, sid, call(long + "{{q}} {{out}}", "first", q="Why?", max_tokens=20))
        await get(service, sid, "first")
        turn = {
            "name": "turn_2",
            "template": long + "{{q}} {{a}} And then? {{out}}",
            "parameters": {
                "q": {"value": "Why?"},
                "a": {"variable": "first"},
                "out": {"output": {"variable": "second", "sampling": {"max_tokens": 5}}},
            },
        }
        await submit(service, sid, turn)
        assert (await get(service, sid, "second")).state == "ready"
        tokens = node(service, sid, "turn_2").tokens
        assert tokens.prompt - tokens.shared < 15


async def test_tenants_never_share_prefixes() -> None:
    async with running_service() as service:
        request = call("A long constant that both tenants send. " * 20 + "{{out}}", "a")
        shared = []
        for tenant in (TenantId("one"), TenantId("one"), TenantId("two")):
            sid = (await service.open_session(tenant, SessionCreate())).session_id
            await service.submit(tenant, sid, SubmitCalls.model_validate({"calls": [request]}))
            await service.get_variable(tenant, sid, "a", wait_s=5)
            shared.append(service.graph(tenant, sid).calls[0].tokens.shared)
        assert shared[0] == 0
        assert shared[1] > 100
        assert shared[2] == 0


async def test_several_outputs_are_generated_in_order_each_after_the_last() -> None:
    answers = (
        ScriptedAnswer(pattern="Colour: ", answer="red"),
        ScriptedAnswer(pattern="Colour: red. Fruit: ", answer="cherry"),
    )
    rules = tuple(reversed(answers))
    async with running_service(ScriptedConfig(answers=rules)) as service:
        sid = await open_session(service)
        both = {
            "template": "Colour: {{c}}. Fruit: {{f}}. The end.",
            "parameters": {"c": {"output": {"variable": "c"}}, "f": {"output": {"variable": "f"}}},
        }
        await submit(service, sid, both)
        assert (await get(service, sid, "c")).value == "red"
        assert (await get(service, sid, "f")).value == "cherry"


async def test_a_later_output_follows_the_raw_text_of_a_transformed_one() -> None:
    rules = (
        ScriptedAnswer(pattern='{"name": "Ada"} Year: ', answer="1815"),
        ScriptedAnswer(pattern="Who? ", answer='{"name": "Ada"}'),
    )
    async with running_service(ScriptedConfig(answers=rules)) as service:
        sid = await open_session(service)
        spec = {
            "template": "Who? {{who}} Year: {{year}}",
            "parameters": {
                "who": {"output": {"variable": "who", "transforms": [{"type": "json", "pointer": "/name"}]}},
                "year": {"output": {"variable": "year"}},
            },
        }
        await submit(service, sid, spec)
        assert (await get(service, sid, "who")).value == "Ada"
        assert (await get(service, sid, "year")).value == "1815"


async def test_an_output_cut_at_a_stop_string_is_followed_as_its_text() -> None:
    rules = (
        ScriptedAnswer(pattern="Next: ", answer="seen"),
        ScriptedAnswer(pattern="List: ", answer="apples and pears STOP and more"),
    )
    async with running_service(ScriptedConfig(answers=rules)) as service:
        sid = await open_session(service)
        spec = {
            "template": "List: {{a}}Next: {{b}}",
            "parameters": {
                "a": {"output": {"variable": "a", "sampling": {"stop": ["STOP"]}}},
                "b": {"output": {"variable": "b"}},
            },
        }
        await submit(service, sid, spec)
        assert (await get(service, sid, "a")).value == "apples and pears "
        assert (await get(service, sid, "b")).value == "seen"


async def test_a_failure_reaches_everything_downstream_with_its_root() -> None:
    fault = ScriptedFault(kind="raise", marker="poison")
    async with running_service(ScriptedConfig(faults=(fault,))) as service:
        sid = await open_session(service)
        await submit(
            service,
            sid,
            call("poison {{out}}", "a"),
            call("{{x}} {{out}}", "b", x="$a"),
            call("{{x}} {{out}}", "c", x="$b"),
            call("good {{out}}", "d"),
        )
        failed, far, good = (
            await get(service, sid, "a"),
            await get(service, sid, "c"),
            await get(service, sid, "d"),
        )
        assert failed.error is not None
        assert failed.error.code == "attempts_exhausted"
        assert far.error is not None
        assert far.error.code == "upstream_failed"
        assert far.error.data is not None
        assert far.error.data["root"] == "attempts_exhausted"
        assert far.error.data["root_variable"] == "a"
        assert good.state == "ready"
        assert node(service, sid, service.graph(TENANT, sid).calls[0].name).attempt == Limits().max_attempts


async def test_a_passing_fault_is_retried_and_not_seen() -> None:
    fault = ScriptedFault(kind="raise", times=1)
    async with running_service(ScriptedConfig(faults=(fault,))) as service:
        sid = await open_session(service)
        await submit(service, sid, call("x {{out}}", "a"))
        assert (await get(service, sid, "a")).state == "ready"
        assert service.counters()["retries"] == 1


async def test_cancelling_a_branch_leaves_the_rest() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        await submit(
            service,
            sid,
            call("a {{out}}", "a", max_tokens=400),
            call("b {{out}}", "b", max_tokens=20),
            call("{{x}} {{out}}", "c", x="$a"),
        )
        await asyncio.sleep(0.1)
        answer = await service.cancel(TENANT, sid, CancelRequest(variables=("a",)))
        assert len(answer.cancelled) == 2
        cancelled = await get(service, sid, "a")
        assert cancelled.error is not None
        assert cancelled.error.code == "cancelled"
        assert (await get(service, sid, "c")).state == "failed"
        assert (await get(service, sid, "b")).state == "ready"
        counts = service.session(TENANT, sid).calls
        assert (counts.done, counts.running, counts.waiting) == (1, 0, 0)


async def test_an_engine_owns_nothing_but_cache_when_all_has_ended() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        calls = [call("a {{out}}", f"a{i}", max_tokens=300) for i in range(5)]
        await submit(service, sid, *calls, call("b {{out}}", "b", max_tokens=3))
        await get(service, sid, "b")
        await service.delete_session(TENANT, sid)
        async with asyncio.timeout(30):
            while any(e.num_owned_blocks or e.num_running for e in service.engines().engines):
                await asyncio.sleep(0.02)
        (engine,) = service.engines().engines
        assert engine.num_cached_blocks + engine.num_free_blocks == engine.num_blocks


async def test_deleting_a_session_ends_its_waiters() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        await submit(service, sid, call("a {{out}}", "a", max_tokens=500))
        waiter = asyncio.create_task(get(service, sid, "a"))
        follower = asyncio.create_task(stream(service, sid, "a"))
        await asyncio.sleep(0.1)
        await service.delete_session(TENANT, sid)
        for task in (waiter, follower):
            with pytest.raises(GoneError):
                await task
        with pytest.raises(GoneError):
            service.session(TENANT, sid)


async def test_another_tenants_session_is_not_there() -> None:
    async with running_service() as service:
        sid = await open_session(service)
        with pytest.raises(NotFoundError):
            service.session(TenantId("other"), sid)
        await service.delete_session(TENANT, sid)
        with pytest.raises(NotFoundError):
            service.session(TenantId("other"), sid)


async def test_an_idempotency_key_makes_a_submission_once() -> None:
    async with running_service() as service:
        sid = await open_session(service)
        answers = await asyncio.gather(
            *(submit(service, sid, call("x {{out}}", "a"), key="k", body="h") for _ in range(20))
        )
        assert len({answer.calls[0].call_id for answer in answers}) == 1
        assert len(service.graph(TENANT, sid).calls) == 1
        with pytest.raises(InvalidError) as raised:
            await submit(service, sid, call("y {{out}}", "b"), key="k", body="other")
        assert raised.value.code == "idempotency_mismatch"


async def test_a_batch_with_one_bad_call_creates_nothing() -> None:
    async with running_service() as service:
        sid = await open_session(service)
        with pytest.raises(GraphError):
            await submit(
                service,
                sid,
                call("ok {{out}}", "fine"),
                call("{{x}} {{out}}", "a", x="$b"),
                call("{{x}} {{out}}", "b", x="$a"),
            )
        assert service.graph(TENANT, sid).calls == ()
        with pytest.raises(NotFoundError):
            await get(service, sid, "fine", 0)


async def test_a_prompt_beyond_the_window_is_refused_with_both_numbers() -> None:
    async with running_service(ScriptedConfig(context_tokens=100)) as service:
        sid = await open_session(service)
        with pytest.raises(CallError) as raised:
            await submit(service, sid, call("word " * 95 + "{{out}}", "a", max_tokens=50))
        assert raised.value.code == "context_overflow"
        assert raised.value.data["context_tokens"] == 100
        assert raised.value.param == "calls[0]"


async def test_a_late_overflow_fails_the_variable() -> None:
    async with running_service(ScriptedConfig(context_tokens=100)) as service:
        sid = await open_session(service)
        await submit(service, sid, call("{{x}} {{out}}", "a", x="$later"))
        await service.set_variable(TENANT, sid, "later", SetVariable(value="word " * 120))
        view = await get(service, sid, "a")
        assert view.error is not None
        assert view.error.code == "context_overflow"


async def test_inputs_are_set_once() -> None:
    async with running_service() as service:
        sid = await open_session(service)
        await submit(service, sid, call("{{x}} {{out}}", "a", x="$doc"))
        assert (await get(service, sid, "a", 0)).state == "pending"
        await service.set_variable(TENANT, sid, "doc", SetVariable(value="v"))
        await service.set_variable(TENANT, sid, "doc", SetVariable(value="v"))
        with pytest.raises(ConflictError):
            await service.set_variable(TENANT, sid, "doc", SetVariable(value="w"))
        with pytest.raises(ConflictError):
            await service.set_variable(TENANT, sid, "a", SetVariable(value="w"))
        assert (await get(service, sid, "a")).state == "ready"


async def test_a_deadline_fails_what_is_pending() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service, deadline_s=0.3)
        slow = call("b {{out}}", "late", max_tokens=900)
        await submit(service, sid, call("{{x}} {{out}}", "never", x="$unset"), slow)
        for name in ("never", "late", "unset"):
            view = await get(service, sid, name)
            assert view.error is not None
            assert view.error.code == "deadline"


async def test_a_stream_gives_the_value_piece_by_piece_and_can_be_resumed_anywhere() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        await submit(service, sid, call("x {{out}}", "a", max_tokens=15))
        items = await stream(service, sid, "a")
        value = (await get(service, sid, "a")).value
        assert value
        assert joined(items) == value
        assert items[-1].event == "ready"
        assert items[-1].data["value"] == value
        assert len([i for i in items if i.event == "delta"]) > 5
        seen = ""
        for item in items[:-1]:
            seen += str(item.data["text"])
            rest = await stream(service, sid, "a", item.event_id)
            assert seen + joined(rest) == value
        with pytest.raises(MalformedError):
            await stream(service, sid, "a", "nonsense")
        with pytest.raises(ConflictError):
            await stream(service, sid, "a", "1.99999")


async def test_a_second_attempt_resets_the_stream() -> None:
    fault = ScriptedFault(kind="raise", times=1, after_tokens=6)
    config = ScriptedConfig(decode_step_s=0.01, tokens_per_step=1, faults=(fault,))
    async with running_service(config) as service:
        sid = await open_session(service)
        await submit(service, sid, call("x {{out}}", "a", max_tokens=20))
        items = await stream(service, sid, "a")
        assert "reset" in [item.event for item in items]
        assert joined(items) == (await get(service, sid, "a")).value


async def test_the_session_stream_tells_everything_and_resumes() -> None:
    async with running_service() as service:
        sid = await open_session(service)
        await submit(service, sid, call("x {{out}}", "a"))
        await get(service, sid, "a")
        events: list[StreamItem] = []

        async def follow() -> None:
            async for item in service.stream_session(TENANT, sid):
                events.append(item)

        async with asyncio.timeout(30):
            task = asyncio.create_task(follow())
            await asyncio.sleep(0.05)
            await service.delete_session(TENANT, sid)
            await task
        names = [e.event for e in events]
        assert names[:2] == ["session_opened", "calls_submitted"]
        assert names[-1] == "session_closed"
        assert {"call_placed", "variable_ready", "call_finished"} <= set(names)
        numbers = [int(e.event_id) for e in events if e.event_id]
        assert numbers == list(range(1, len(numbers) + 1))


async def test_a_restart_finishes_what_was_acknowledged_and_repeats_nothing_done(tmp_path: Path) -> None:
    durable = StoreConfig(path=tmp_path / "parrot.db")
    chain: list[Mapping[str, Any]] = [call("start {{out}}", "v0", max_tokens=10)]
    chain += [call("{{x}} {{out}}", f"v{i}", x=f"$v{i - 1}", max_tokens=10) for i in range(1, 8)]
    async with running_service() as service:
        sid = await open_session(service)
        await submit(service, sid, *chain)
        expected = [(await get(service, sid, f"v{i}")).value for i in range(8)]
    async with running_service(SLOW, store=await open_store(durable)) as service:
        sid = await open_session(service)
        await submit(service, sid, *chain, key="once", body="h")
        first = (await get(service, sid, "v2")).value
        accepted = service.graph(TENANT, sid)
    async with running_service(store=await open_store(durable)) as service:
        values = [(await get(service, sid, f"v{i}")).value for i in range(8)]
        again = await submit(service, sid, *chain, key="once", body="h")
        graph = service.graph(TENANT, sid)
        assert values == expected
        assert values[2] == first
        assert [c.call_id for c in again.calls] == [c.call_id for c in accepted.calls]
        assert len(graph.calls) == 8
        assert [c.attempt for c in graph.calls[:3]] == [1, 1, 1]


async def test_limits_on_sessions_are_enforced() -> None:
    async with running_service(limits=Limits(max_sessions=2)) as service:
        sid = await open_session(service)
        await open_session(service)
        with pytest.raises(OverLimitError):
            await open_session(service)
        await service.delete_session(TENANT, sid)
        assert await open_session(service)


async def test_an_idle_session_expires_and_says_so() -> None:
    async with running_service(limits=Limits(session_idle_ttl_s=0.1)) as service:
        sid = await open_session(service)
        await asyncio.sleep(0.4)
        with pytest.raises(GoneError) as raised:
            service.session(TENANT, sid)
        assert raised.value.code == "session_expired"


async def test_a_draining_service_finishes_its_calls_and_takes_no_more() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        await submit(service, sid, call("x {{out}}", "a", max_tokens=20))
        await asyncio.sleep(0.05)
        await service.drain(5)
        with pytest.raises(UnavailableError):
            await submit(service, sid, call("y {{out}}", "b"))
        assert (await get(service, sid, "a", 0.5)).state == "ready"


@pytest.mark.parametrize("seed", range(6))
async def test_random_applications_give_the_text_of_running_them_by_hand(seed: int) -> None:
    draw = random.Random(seed)
    calls = []
    for number in range(25):
        inputs = {f"x{k}": f"$v{draw.randrange(number)}" for k in range(draw.randrange(3))} if number else {}
        template = f"Node {draw.randrange(4)}: " + " ".join(f"{{{{{name}}}}}" for name in inputs) + " {{out}}"
        calls.append(call(template, f"v{number}", max_tokens=6, **inputs))
    config = ScriptedConfig(num_blocks=200, max_batch=3)
    async with running_service(config, config) as service:
        sid = await open_session(service)
        await submit(service, sid, *draw.sample(calls, len(calls)))
        together = [(await get(service, sid, f"v{i}")).value for i in range(25)]
        by_hand = await open_session(service)
        for number, one in enumerate(calls):
            plain = dict(one)
            plain["parameters"] = {
                name: {"value": together[int(p["variable"][1:])]} if "variable" in p else p
                for name, p in one["parameters"].items()
            }
            await submit(service, by_hand, plain)
            assert (await get(service, by_hand, f"v{number}")).value == together[number]


async def test_a_restart_under_lower_limits_keeps_what_was_accepted(tmp_path: Path) -> None:
    durable = StoreConfig(path=tmp_path / "parrot.db")
    async with running_service(SLOW, store=await open_store(durable)) as service:
        sid = await open_session(service)
        await submit(service, sid, *(call("x {{out}}", f"a{i}", max_tokens=50) for i in range(5)))
    low = Limits(max_session_calls=2, max_batch_calls=1)
    async with running_service(store=await open_store(durable), limits=low) as service:
        assert [(await get(service, sid, f"a{i}")).state for i in range(5)] == ["ready"] * 5
        with pytest.raises(InvalidError):
            await submit(service, sid, call("y {{out}}", "b"))


async def test_a_prompt_whose_inputs_are_all_empty_fails_by_itself() -> None:
    async with running_service() as service:
        sid = await open_session(service)
        await submit(service, sid, call("{{x}}{{out}}", "a", x="$later"))
        await service.set_variable(TENANT, sid, "later", SetVariable(value=""))
        view = await get(service, sid, "a")
        assert view.error is not None
        assert view.error.code == "empty_prompt"


async def test_whoever_reads_a_value_finds_its_call_done() -> None:
    async with running_service(SLOW) as service:
        sid = await open_session(service)
        for number in range(10):
            answer = await submit(service, sid, call("x {{out}}", f"a{number}", max_tokens=2))
            await get(service, sid, f"a{number}")
            assert node(service, sid, answer.calls[0].name).state == "done"


async def test_a_stream_cut_by_a_restart_goes_on_with_a_reset(tmp_path: Path) -> None:
    durable = StoreConfig(path=tmp_path / "parrot.db")
    async with running_service(SLOW, store=await open_store(durable)) as service:
        sid = await open_session(service)
        await submit(service, sid, call("x {{out}}", "a", max_tokens=30))
        seen = service.stream_variable(TENANT, sid, "a")
        positions = [(await anext(seen)).event_id for _ in range(8)]
        await seen.aclose()
    async with running_service(SLOW, store=await open_store(durable)) as service:
        items = await stream(service, sid, "a", positions[-1])
        assert items[0].event == "reset"
        assert joined(items) == (await get(service, sid, "a")).value


async def test_a_nul_in_an_output_becomes_something_that_can_be_sent_again() -> None:
    rules = (ScriptedAnswer(pattern="Next: ", answer="ok"), ScriptedAnswer(pattern="Say: ", answer="a\x00b"))
    async with running_service(ScriptedConfig(answers=rules)) as service:
        sid = await open_session(service)
        spec = {
            "template": "Say: {{a}} Next: {{b}}",
            "parameters": {"a": {"output": {"variable": "a"}}, "b": {"output": {"variable": "b"}}},
        }
        await submit(service, sid, spec)
        assert (await get(service, sid, "a")).value == "a\ufffdb"
        assert (await get(service, sid, "b")).value == "ok"
        assert joined(await stream(service, sid, "a")) == "a\ufffdb"
