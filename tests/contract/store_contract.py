"""What every store does, as tests over a fixture `open_store` that a test module gives."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parrot.errors import StoreError
from parrot.ports.store import Appended, IdempotentReply, Store
from parrot.types.events import (
    CallFinished,
    CallPlaced,
    CallsSubmitted,
    Event,
    Failure,
    NewVariable,
    SessionClosed,
    SessionOpened,
    SubmittedCall,
    VariableFailed,
    VariableReady,
    VariableSet,
)
from parrot.types.ids import DEFAULT_TENANT, CallId, EngineId, SessionId, TenantId, VariableId

OpenStore = Callable[[], Awaitable[Store]]


def opened(session: str = "a", wall_s: float = 1.0) -> SessionOpened:
    return SessionOpened(
        session_id=SessionId(session),
        tenant_id=DEFAULT_TENANT,
        name="run 🦜",
        objective="latency",
        deadline_s=None,
        metadata={"k": "v"},
        wall_s=wall_s,
    )


def closed(session: str = "a", wall_s: float = 9.0) -> SessionClosed:
    return SessionClosed(session_id=SessionId(session), reason="deleted", wall_s=wall_s)


def submitted(session: str = "a") -> CallsSubmitted:
    call = SubmittedCall(
        call_id=CallId("c"),
        name="map",
        spec='{"template":"\u2028 \\u0000"}',
        inputs={"x": VariableId("i")},
        outputs={"y": VariableId("o")},
    )
    variables = (
        NewVariable(variable_id=VariableId("i"), name=None, value="in"),
        NewVariable(variable_id=VariableId("o"), name="out"),
    )
    return CallsSubmitted(session_id=SessionId(session), calls=(call,), variables=variables, wall_s=2.0)


def placed(attempt: int, call: str = "c", session: str = "a") -> CallPlaced:
    return CallPlaced(
        session_id=SessionId(session),
        call_id=CallId(call),
        attempt=attempt,
        engine_id=EngineId("e"),
        why="free",
        num_shared_tokens=0,
        wall_s=3.0,
    )


def ready(attempt: int, variable: str = "o", value: str = "ok", session: str = "a") -> VariableReady:
    return VariableReady(
        session_id=SessionId(session),
        variable_id=VariableId(variable),
        call_id=CallId("c"),
        attempt=attempt,
        value=value,
        num_tokens=1,
    )


def failed(attempt: int, variable: str = "o", call: str | None = "c") -> VariableFailed:
    return VariableFailed(
        session_id=SessionId("a"),
        variable_id=VariableId(variable),
        call_id=None if call is None else CallId(call),
        attempt=attempt,
        failure=Failure(code="deadline", message="too late", data={"root": "c", "n": [1, None]}),
    )


def finished() -> CallFinished:
    return CallFinished(
        session_id=SessionId("a"),
        call_id=CallId("c"),
        attempt=1,
        outcome="done",
        num_prompt_tokens=1,
        num_shared_tokens=0,
        num_output_tokens=1,
        wall_s=4.0,
    )


def given_value(value: str, session: str = "a") -> VariableSet:
    return VariableSet(
        session_id=SessionId(session), variable_id=VariableId(f"in {value}"), name="x", value=value
    )


def reply(key: str = "k", *, text: str = "{}", tenant: str = "default") -> IdempotentReply:
    return IdempotentReply(
        tenant_id=TenantId(tenant), scope="POST /v1/sessions", key=key, body_hash="h", reply=text
    )


async def log_of(store: Store, session: str = "a") -> list[Event]:
    return [item.event for item in await store.load_session(SessionId(session))]


async def everything_open(store: Store) -> list[Sequence[Appended]]:
    return [log async for log in store.load_open()]


class StoreContract:
    """Subclass it with a fixture `open_store`; each opening gives a store that knows of no other."""

    num_random_logs = 100

    @pytest.fixture
    async def store(self, open_store: OpenStore) -> AsyncIterator[Store]:
        store = await open_store()
        yield store
        await store.close()

    async def test_events_come_back_numbered_and_in_order(self, store: Store) -> None:
        """Invariant S1."""
        first = await store.append([opened(), submitted()])
        second = await store.append([placed(1), ready(1), finished()])
        assert [item.seq for item in (*first.appended, *second.appended)] == [1, 2, 3, 4, 5]
        assert (first.dropped, second.dropped, second.existing) == ((), (), None)
        assert await store.load_session(SessionId("a")) == first.appended + second.appended

    async def test_sessions_are_numbered_apart(self, store: Store) -> None:
        outcome = await store.append([opened("a"), opened("b"), given_value("1", "b"), given_value("2", "a")])
        assert [item.seq for item in outcome.appended] == [1, 1, 2, 2]
        assert await log_of(store, "b") == [opened("b"), given_value("1", "b")]

    async def test_a_log_can_be_read_from_the_middle(self, store: Store) -> None:
        await store.append([opened(), given_value("1"), given_value("2")])
        assert [item.seq for item in await store.load_session(SessionId("a"), after_seq=2)] == [3]
        assert await store.load_session(SessionId("a"), after_seq=3) == ()

    async def test_an_unknown_session_has_an_empty_log(self, store: Store) -> None:
        assert list(await store.load_session(SessionId("nobody's"))) == []

    async def test_the_first_resolution_wins(self, store: Store) -> None:
        """Invariant S2."""
        await store.append([opened(), placed(1), ready(1, value="first")])
        outcome = await store.append([ready(1, value="second"), failed(1), finished()])
        assert outcome.dropped == (ready(1, value="second"), failed(1))
        assert [item.seq for item in outcome.appended] == [4]
        assert await log_of(store) == [opened(), placed(1), ready(1, value="first"), finished()]

    async def test_the_first_resolution_wins_within_one_append(self, store: Store) -> None:
        outcome = await store.append([opened(), failed(0, call=None), ready(1), ready(1, variable="p")])
        assert outcome.dropped == (ready(1),)
        assert [item.seq for item in outcome.appended] == [1, 2, 3]

    async def test_a_later_attempt_fences_off_an_earlier_one(self, store: Store) -> None:
        """Invariant S3."""
        await store.append([opened(), placed(1), placed(2)])
        late = await store.append([ready(1), failed(1)])
        assert (late.appended, late.dropped) == ((), (ready(1), failed(1)))
        good = await store.append([ready(2)])
        assert [item.seq for item in good.appended] == [4]

    async def test_fencing_heeds_the_order_within_one_append(self, store: Store) -> None:
        outcome = await store.append(
            [opened(), placed(1), ready(1, variable="p"), placed(2), ready(1, variable="q")]
        )
        assert outcome.dropped == (ready(1, variable="q"),)

    async def test_a_placement_told_late_does_not_lift_the_fence(self, store: Store) -> None:
        await store.append([opened(), placed(3), placed(2)])
        assert (await store.append([ready(2)])).dropped == (ready(2),)

    async def test_a_failure_without_a_call_is_not_fenced(self, store: Store) -> None:
        await store.append([opened(), placed(5)])
        assert (await store.append([failed(0, call=None)])).dropped == ()

    async def test_appends_made_at_once_keep_their_order(self, store: Store) -> None:
        await store.append([opened()])
        outcomes = await asyncio.gather(*(store.append([given_value(str(n))]) for n in range(200)))
        assert [outcome.appended[0].seq for outcome in outcomes] == list(range(2, 202))
        assert await log_of(store) == [opened(), *(given_value(str(n)) for n in range(200))]

    async def test_appends_made_at_once_race_for_a_variable_and_one_wins(self, store: Store) -> None:
        await store.append([opened(), placed(1)])
        outcomes = await asyncio.gather(*(store.append([ready(1, value=str(n))]) for n in range(50)))
        assert [len(outcome.appended) for outcome in outcomes] == [1] + [0] * 49

    async def test_an_append_that_cannot_be_leaves_nothing_and_harms_no_other(self, store: Store) -> None:
        await store.append([opened()])
        results = await asyncio.gather(
            store.append([given_value("1")]),
            store.append([given_value("2"), given_value("x", "never opened")]),
            store.append([given_value("3"), opened()]),
            store.append([given_value("4")]),
            return_exceptions=True,
        )
        assert [isinstance(result, ValueError) for result in results] == [False, True, True, False]
        assert await log_of(store) == [opened(), given_value("1"), given_value("4")]

    async def test_nothing_is_a_valid_append(self, store: Store) -> None:
        assert (await store.append([])).appended == ()

    async def test_a_known_key_appends_nothing_and_tells_the_first_reply(self, store: Store) -> None:
        first = await store.append([opened()], idempotent=reply(text="one"))
        again = await store.append([opened("b")], idempotent=reply(text="two"))
        assert first.existing is None
        assert (again.existing, again.appended) == (reply(text="one"), ())
        assert await log_of(store, "b") == []

    async def test_one_of_many_with_the_same_key_is_appended(self, store: Store) -> None:
        sent = [(opened(str(n)), reply(text=str(n))) for n in range(20)]
        outcomes = await asyncio.gather(*(store.append([event], idempotent=answer) for event, answer in sent))
        assert [outcome.existing for outcome in outcomes] == [None] + [reply(text="0")] * 19
        assert len(await everything_open(store)) == 1

    async def test_a_key_is_good_for_one_tenant_and_place(self, store: Store) -> None:
        await store.append([opened()], idempotent=reply())
        other = await store.append([opened("b")], idempotent=reply(tenant="other"))
        assert other.existing is None
        assert await store.find_idempotent(DEFAULT_TENANT, "POST /v1/sessions", "k") == reply()
        assert await store.find_idempotent(DEFAULT_TENANT, "elsewhere", "k") is None
        assert await store.find_idempotent(DEFAULT_TENANT, "POST /v1/sessions", "K") is None

    async def test_open_sessions_are_loaded_whole_and_oldest_first(self, store: Store) -> None:
        await store.append([opened("z"), opened("m"), opened("a"), given_value("1", "z")])
        await store.append([closed("m")])
        logs = await everything_open(store)
        assert [[item.event for item in log] for log in logs] == [
            [opened("z"), given_value("1", "z")],
            [opened("a")],
        ]

    async def test_what_was_closed_is_known_afterwards(self, store: Store) -> None:
        for number, session in enumerate("abcd"):
            await store.append([opened(session)])
            if session != "d":
                await store.append([closed(session, wall_s=10.0 - number)])
        await store.purge(closed_before_wall_s=9.5)
        told = await store.load_closed(10)
        assert {(each.tenant_id, each.reason) for each in told} == {(DEFAULT_TENANT, "deleted")}
        assert {each.session_id for each in told} == {"a", "b", "c"}
        assert len(await store.load_closed(2)) == 2

    async def test_purge_keeps_the_ends_of_long_closed_sessions(self, store: Store) -> None:
        await store.append([opened("a"), placed(1), ready(1), closed("a", 10.0)], idempotent=reply())
        await store.append([opened("b"), given_value("1", "b"), closed("b", 20.0)], idempotent=reply("l"))
        await store.append([opened("c"), given_value("1", "c")])
        assert await store.purge(closed_before_wall_s=20.0) == 1
        assert [(item.seq, item.event) for item in await store.load_session(SessionId("a"))] == [
            (1, opened("a")),
            (4, closed("a", 10.0)),
        ]
        assert (len(await log_of(store, "b")), len(await log_of(store, "c"))) == (3, 2)
        assert await store.find_idempotent(DEFAULT_TENANT, "POST /v1/sessions", "k") is None
        assert await store.find_idempotent(DEFAULT_TENANT, "POST /v1/sessions", "l") == reply("l")
        assert await store.purge(closed_before_wall_s=20.0) == 0

    async def test_a_closed_store_refuses_and_can_be_closed_again(self, store: Store) -> None:
        await store.append([opened()])
        await store.close()
        await store.close()
        for work in (store.append([closed()]), store.load_session(SessionId("a")), everything_open(store)):
            with pytest.raises(StoreError, match="closed"):
                await work

    async def test_what_was_appended_before_close_is_answered(self, store: Store) -> None:
        appends = [asyncio.ensure_future(store.append([opened(str(n))])) for n in range(10)]
        await asyncio.sleep(0)
        await store.close()
        outcomes = await asyncio.gather(*appends)
        assert all(len(outcome.appended) == 1 for outcome in outcomes)

    async def test_random_batches_give_what_a_plain_log_gives(self, open_store: OpenStore) -> None:
        batches = st.lists(st.lists(_RANDOM_EVENTS, max_size=4), max_size=8)

        for groups in _examples(batches, self.num_random_logs):
            store = await open_store()
            await store.append([opened()])
            outcomes = await asyncio.gather(*(store.append(group) for group in groups))
            expected, dropped = _plain_log([event for group in groups for event in group])
            assert await log_of(store) == [opened(), *expected]
            assert [event for outcome in outcomes for event in outcome.dropped] == dropped
            await store.close()


_RANDOM_EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(placed, st.integers(1, 3)),
    st.builds(ready, st.integers(1, 3), st.sampled_from("opq"), st.text("xy", max_size=2)),
    st.builds(failed, st.integers(0, 3), st.sampled_from("opq")),
    st.builds(given_value, st.text("xy", max_size=2)),
)


def _examples(batches: st.SearchStrategy[list[list[Event]]], number: int) -> list[list[list[Event]]]:
    found: list[list[list[Event]]] = []

    @settings(max_examples=number)
    @given(batches)
    def collect(groups: list[list[Event]]) -> None:
        found.append(groups)

    collect()
    return found


def _plain_log(events: Sequence[Event]) -> tuple[list[Event], list[Event]]:
    """The two guarantees, restated as plainly as can be."""
    kept: list[Event] = []
    dropped: list[Event] = []
    for event in events:
        late = False
        if isinstance(event, VariableReady | VariableFailed):
            attempts = [e.attempt for e in kept if isinstance(e, CallPlaced) and e.call_id == event.call_id]
            late = event.attempt < max(attempts, default=0) or any(
                isinstance(e, VariableReady | VariableFailed) and e.variable_id == event.variable_id
                for e in kept
            )
        (dropped if late else kept).append(event)
    return kept, dropped
