"""What happens between a commit and the change in memory that it stands for: clients leave, stores refuse,
sessions end, deadlines pass. Memory and log never disagree, and nothing waits for ever.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import pytest
from core_harness import TENANT, call, get, open_session, running_service, submit
from store_fakes import UnsteadyStore

from parrot.core.executor import prompt_writer
from parrot.core.executor.prompt_writer import LONG_TEXT_CHARS
from parrot.core.limits import Limits
from parrot.core.prompts import Prompt, write_prompt
from parrot.core.recovery import rebuild
from parrot.core.service import Service
from parrot.core.service_config import ServiceConfig
from parrot.core.sessions import Session
from parrot.engine.scripted_config import ScriptedConfig
from parrot.errors import ConflictError, GoneError, InvalidError, OverLimitError, ParrotError, StoreError
from parrot.types.ids import SessionId
from parrot.types.program import ConstantSegment, Program
from parrot.wire.requests import CancelRequest, SessionCreate, SetVariable

SLOW = ScriptedConfig(decode_step_s=0.02, tokens_per_step=1)
T = TypeVar("T")


async def replayed(store: UnsteadyStore, sid: str) -> Session:
    """The session as a restart would find it."""
    session, _ = rebuild(await store.load_session(SessionId(sid)), Limits())
    return session


async def soon(work: Awaitable[T]) -> T:
    async with asyncio.timeout(30):
        return await work


async def put(service: Service, sid: str, name: str, value: str) -> None:
    await service.set_variable(TENANT, sid, name, SetVariable(value=value))


async def test_a_submission_whose_client_leaves_during_the_commit_is_whole() -> None:
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        store.gate.clear()
        leaving = asyncio.create_task(submit(service, sid, call("x {{out}}", "a"), key="k", body="h"))
        await store.held()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        store.gate.set()
        again = await submit(service, sid, call("x {{out}}", "a"), key="k", body="h")
        assert [c.call_id for c in service.graph(TENANT, sid).calls] == [again.calls[0].call_id]
        assert (await get(service, sid, "a")).state == "ready"
        assert list((await replayed(store, sid)).graph.calls) == [again.calls[0].call_id]


async def test_nothing_of_a_session_changes_while_a_commit_whose_client_left_is_under_way() -> None:
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        store.gate.clear()
        leaving = asyncio.create_task(submit(service, sid, call("x {{out}}", "a")))
        await store.held()
        leaving.cancel()
        second = asyncio.create_task(submit(service, sid, call("y {{out}}", "a")))
        await asyncio.sleep(0.01)
        store.gate.set()
        with pytest.raises(ConflictError):
            await soon(second)
        assert len((await replayed(store, sid)).graph.calls) == 1


async def test_a_value_that_is_being_set_is_not_failed_by_a_cancel_meanwhile() -> None:
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        await submit(service, sid, call("{{x}} {{out}}", "a", x="$doc"))
        store.gate.clear()
        setting = asyncio.create_task(put(service, sid, "doc", "the text"))
        await store.held()
        cancelling = asyncio.create_task(service.cancel(TENANT, sid, CancelRequest(variables=("doc",))))
        await asyncio.sleep(0.01)
        store.gate.set()
        await soon(setting)
        await soon(cancelling)
        assert (await get(service, sid, "doc")).value == "the text"
        assert (await replayed(store, sid)).graph.variable("doc").value == "the text"


async def test_a_value_that_is_being_set_is_not_failed_by_the_deadline_meanwhile() -> None:
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        sid = await open_session(service, deadline_s=0.2)
        await submit(service, sid, call("{{x}} {{out}}", "a", x="$doc"))
        store.gate.clear()
        setting = asyncio.create_task(put(service, sid, "doc", "the text"))
        await store.held()
        await asyncio.sleep(0.3)
        store.gate.set()
        await soon(setting)
        assert (await get(service, sid, "doc")).value == "the text"
        assert (await replayed(store, sid)).graph.variable("doc").value == "the text"


async def test_a_cancel_between_the_check_of_a_submission_and_its_commit_leaves_a_log_that_replays() -> None:
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        await submit(service, sid, call("{{x}} {{out}}", "a", x="$later"))
        long = call("word " * 10_000 + "{{out}}", "later")
        producing = asyncio.create_task(submit(service, sid, long))
        await asyncio.sleep(0)
        await service.cancel(TENANT, sid, CancelRequest(variables=("later",)))
        try:
            await soon(producing)
        except ConflictError:
            accepted = 1
        else:
            accepted = 2
        assert len(service.graph(TENANT, sid).calls) == accepted
        assert len((await replayed(store, sid)).graph.calls) == accepted


async def test_variables_beyond_the_limit_leave_nothing_in_the_log() -> None:
    store = UnsteadyStore()
    async with running_service(store=store, limits=Limits(max_session_variables=2)) as service:
        sid = await open_session(service)
        await put(service, sid, "a", "1")
        await put(service, sid, "b", "2")
        with pytest.raises(InvalidError):
            await put(service, sid, "c", "3")
        assert len((await replayed(store, sid)).graph.variables) == 2


async def test_a_tenant_cannot_open_more_sessions_than_allowed_by_opening_them_at_once() -> None:
    async with running_service(limits=Limits(max_sessions=3)) as service:
        answers = await asyncio.gather(*(open_session(service) for _ in range(20)), return_exceptions=True)
        opened = [answer for answer in answers if isinstance(answer, str)]
        assert len(opened) == 3
        assert all(isinstance(answer, str | OverLimitError) for answer in answers)
        await service.delete_session(TENANT, opened[0])
        assert await open_session(service)


async def test_a_session_whose_end_is_not_stored_goes_on_and_can_be_deleted_later() -> None:
    store = UnsteadyStore()
    async with running_service(SLOW, store=store) as service:
        sid = await open_session(service)
        await submit(service, sid, call("x {{out}}", "a", max_tokens=10))
        store.down = True
        with pytest.raises(StoreError):
            await service.delete_session(TENANT, sid)
        store.down = False
        assert service.session(TENANT, sid).state == "open"
        assert (await get(service, sid, "a")).state == "ready"
        await service.delete_session(TENANT, sid)
        with pytest.raises(GoneError):
            service.session(TENANT, sid)


async def test_a_session_that_is_deleted_while_it_expires_does_not_end_the_service() -> None:
    store = UnsteadyStore()
    async with running_service(store=store, limits=Limits(session_idle_ttl_s=0.2)) as service:
        first, second = await open_session(service), await open_session(service)
        store.gate.clear()
        await asyncio.sleep(0.3)
        await store.held()
        deleting = asyncio.create_task(service.delete_session(TENANT, second))
        await asyncio.sleep(0.01)
        store.gate.set()
        await soon(deleting)
        await asyncio.sleep(0.2)
        assert service.health().status == "ok"
        with pytest.raises(GoneError):
            service.session(TENANT, first)
        assert await open_session(service)


async def test_a_session_does_not_expire_while_somebody_waits_or_follows() -> None:
    async with running_service(limits=Limits(session_idle_ttl_s=0.1)) as service:
        waited, followed = await open_session(service), await open_session(service)
        await put(service, followed, "doc", "v")
        await submit(service, waited, call("{{x}} {{out}}", "a", x="$doc"))
        await service.cancel(TENANT, waited, CancelRequest(calls=None))
        items = service.stream_session(TENANT, followed)
        assert (await anext(items)).event == "session_opened"
        assert (await get(service, waited, "doc", wait_s=0.5)).state == "pending"
        assert service.session(TENANT, followed).state == "open"
        assert service.session(TENANT, waited).state == "open"
        await items.aclose()
        async with asyncio.timeout(30):
            while service.counters()["sessions_open"]:
                await asyncio.sleep(0.02)
        with pytest.raises(GoneError):
            service.session(TENANT, followed)


async def test_a_restart_gives_idle_sessions_their_time_anew() -> None:
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        await put(service, sid, "doc", "v")
    store._shut = False
    await asyncio.sleep(0.4)
    async with running_service(store=store, limits=Limits(session_idle_ttl_s=0.3)) as service:
        await asyncio.sleep(0.1)
        assert (await get(service, sid, "doc")).value == "v"


async def test_calls_that_come_after_the_deadline_fail_at_once() -> None:
    rarely = ServiceConfig(sweep_interval_s=30)
    async with running_service(SLOW, config=rarely) as service:
        sid = await open_session(service, deadline_s=0.1)
        await asyncio.sleep(0.3)
        await submit(
            service, sid, call("b {{out}}", "late", max_tokens=900), call("{{x}} {{out}}", "no", x="$unset")
        )
        for name in ("late", "no", "unset"):
            view = await get(service, sid, name, wait_s=1)
            assert view.error is not None
            assert view.error.code == "deadline"
        assert service.counters()["calls_running"] == 0


async def test_an_event_stream_that_begins_while_its_session_closes_ends() -> None:
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        await put(service, sid, "doc", "v")
        items = service.stream_session(TENANT, sid)
        store.gate.clear()
        reading = asyncio.create_task(anext(items))
        deleting = asyncio.create_task(service.delete_session(TENANT, sid))
        loading = store.load_session

        async def load_late(session_id: SessionId, *, after_seq: int = 0) -> object:
            store.gate.set()
            await deleting
            return await loading(session_id, after_seq=after_seq)

        store.load_session = load_late  # type: ignore[method-assign,assignment]
        names = [(await soon(reading)).event]
        async with asyncio.timeout(30):
            names += [item.event async for item in items]
        assert names == ["session_opened", "variable_set", "session_closed"]


async def test_a_cancel_is_answered_while_others_work_without_pause() -> None:
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        busy, sid = await open_session(service), await open_session(service)
        stop = asyncio.Event()

        async def work(name: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                await put(service, busy, f"{name}_{number}", "v")

        await submit(service, sid, call("{{x}} {{out}}", "a", x="$doc"))
        store.delay_s = 0.005
        workers = [asyncio.create_task(work(name)) for name in "abcd"]
        await asyncio.sleep(0.05)
        answer = await soon(service.cancel(TENANT, sid, CancelRequest()))
        stop.set()
        await asyncio.gather(*workers)
        assert len(answer.cancelled) == 1


async def test_a_store_that_refuses_is_told_to_everyone_who_waits_and_nothing_is_acknowledged() -> None:
    store = UnsteadyStore()
    async with running_service(ScriptedConfig(decode_step_s=0.01), store=store) as service:
        sid = await open_session(service)
        await submit(service, sid, call("x {{out}}", "a", max_tokens=10))
        store.gate.clear()
        await store.held()
        store.down = True
        refused: list[asyncio.Task[object]] = [
            asyncio.create_task(submit(service, sid, call("y {{out}}", "b"), key="k", body="h")),
            asyncio.create_task(put(service, sid, "doc", "v")),
            asyncio.create_task(open_session(service)),
        ]
        await asyncio.sleep(0.05)
        store.gate.set()
        for task in refused:
            with pytest.raises(StoreError):
                await soon(task)
        assert (await get(service, sid, "a", wait_s=0.1)).state == "pending"
        assert service.health().status == "unavailable"
        with pytest.raises(StoreError):
            await soon(service.cancel(TENANT, sid, CancelRequest()))
        assert len(service.graph(TENANT, sid).calls) == 1
        store.down = False
        assert (await get(service, sid, "a")).state != "pending"
        assert (await submit(service, sid, call("y {{out}}", "b"), key="k", body="h")).calls
        assert (await get(service, sid, "b")).state == "ready"
        assert service.health().status == "ok"


async def test_whoever_waits_for_a_commit_when_the_service_closes_is_told() -> None:
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        store.gate.clear()
        waiting = asyncio.create_task(submit(service, sid, call("x {{out}}", "a")))
        await store.held()
        closing = asyncio.create_task(service.close())
        await asyncio.sleep(0.05)
        store.gate.set()
        await soon(closing)
        assert (await soon(waiting)).calls
        with pytest.raises(ParrotError):
            await soon(service.delete_session(TENANT, sid))


async def test_an_open_session_request_that_is_cancelled_leaves_no_session_that_nobody_counts() -> None:
    store = UnsteadyStore()
    async with running_service(store=store, limits=Limits(max_sessions=1)) as service:
        store.gate.clear()
        leaving = asyncio.create_task(service.open_session(TENANT, SessionCreate()))
        await store.held()
        leaving.cancel()
        store.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await asyncio.sleep(0.01)
        (left,) = service.list_sessions(TENANT).sessions
        with pytest.raises(OverLimitError):
            await open_session(service)
        await service.delete_session(TENANT, left.session_id)
        assert await open_session(service)


async def test_a_call_is_not_reported_done_before_that_is_stored() -> None:
    store = UnsteadyStore()
    async with running_service(store=store) as service:
        sid = await open_session(service)
        store.delay_s = 0.3
        await submit(service, sid, call("x {{out}}", "a"))
        async with asyncio.timeout(30):
            while not service.engines().engines[0].num_decoded_tokens:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        view, counts = service.graph(TENANT, sid), service.session(TENANT, sid).calls
        assert (view.calls[0].state, counts.running, counts.done) == ("running", 1, 0)
        await get(service, sid, "a")
        view, counts = service.graph(TENANT, sid), service.session(TENANT, sid).calls
        assert (view.calls[0].state, counts.running, counts.done) == ("done", 0, 1)


@pytest.mark.parametrize("num_chars", [1, LONG_TEXT_CHARS], ids=["short", "long"])
async def test_a_fault_in_writing_one_prompt_is_that_calls_own(
    monkeypatch: pytest.MonkeyPatch, num_chars: int
) -> None:
    def write(program: Program, *arguments: Any, **named: Any) -> Prompt:
        if any(isinstance(s, ConstantSegment) and s.text.startswith("bad") for s in program.segments):
            raise RuntimeError("a fault of ours")
        return write_prompt(program, *arguments, **named)

    monkeypatch.setattr(prompt_writer, "write_prompt", write)
    async with running_service() as service:
        sid = await open_session(service)
        more = "a" * num_chars
        calls = [call(f"{kind} {{{{x}}}}{more} {{{{out}}}}", kind, x="$doc") for kind in ("bad", "good")]
        await submit(service, sid, *calls)
        await put(service, sid, "doc", "v")
        bad, good = await get(service, sid, "bad"), await get(service, sid, "good")
        assert good.state == "ready"
        assert bad.error is not None
        assert bad.error.code == "internal"
        assert service.health().status == "ok"


async def test_an_attempt_that_the_store_did_not_learn_of_is_not_numbered_again() -> None:
    store = UnsteadyStore()
    async with running_service(SLOW, store=store) as service:
        sid = await open_session(service)
        await submit(
            service,
            sid,
            call("x {{out}}", "a", max_tokens=2),
            call("{{y}} {{out}}", "b", y="$a", max_tokens=200),
        )
        store.gate.clear()
        items = service.stream_variable(TENANT, sid, "b")
        position = (await soon(anext(items))).event_id
        await items.aclose()
        assert position is not None
        before = await replayed(store, sid)
        (waiting,) = (r for r in before.records.values() if before.graph.calls[r.call_id].state == "waiting")
        assert waiting.attempt >= int(position.partition(".")[0])
        store.gate.set()


async def test_a_service_that_stops_by_a_fault_tells_everyone_and_gives_everything_back() -> None:
    store = UnsteadyStore()
    async with running_service(SLOW, store=store) as service:
        sid = await open_session(service)
        stopped = asyncio.create_task(service.wait_stopped())
        await submit(service, sid, call("x {{out}}", "a", max_tokens=5))
        store.broken = True
        await soon(stopped)
        with pytest.raises(StoreError):
            await soon(submit(service, sid, call("y {{out}}", "b")))
        assert service.health().status == "unavailable"
        await soon(service.close())
        with pytest.raises(StoreError):
            await store.load_session(SessionId(sid))
