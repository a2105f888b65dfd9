"""Engines in the orders in which rounds look for them: kept up change by change, as if looked at anew."""

import math
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from parrot.core.cost_model import EnginePace
from parrot.core.prefixes import PrefixIndex
from parrot.core.roster import EngineState, Roster, Standing
from parrot.core.scheduler import ReadyCall, Round, Snapshot
from parrot.ports.engine import ContextRef
from parrot.types.ids import CallId, ContextId, EngineId, PrefixKey

TARGET_S = 0.03
PACE = EnginePace(base_s=0.01, decode_s=0.004, prefill_s=0.0005, kv_s=1e-5)
NAMES = tuple(EngineId(f"engine-{number}") for number in range(5))


@st.composite
def states(draw: st.DrawFn) -> EngineState:
    num_calls = draw(st.integers(0, 8))
    return EngineState(
        engine_id=draw(st.sampled_from(NAMES)),
        model="m",
        max_batch=8,
        num_calls=num_calls,
        num_latency_calls=draw(st.integers(0, num_calls)),
        num_tokens=draw(st.integers(0, 1200)),
        num_unfilled_tokens=draw(st.integers(0, 100)),
        capacity_tokens=1000,
        pace=PACE,
    )


def room_for(state: EngineState, num_tokens: int, *, small: bool) -> bool:
    """What the orders are to agree with."""
    if state.num_calls == 0:
        return True
    most = state.max_batch
    if small or state.num_latency_calls:
        most = state.pace.batch_within(TARGET_S, most, state.num_tokens)
    return state.num_calls < most and state.num_tokens + num_tokens <= state.capacity_tokens


def seen(standing: Standing, num_tokens: int, *, small: bool) -> set[EngineId]:
    return {state.engine_id for state, _ in standing.fitting(num_tokens, small=small)}


@given(changes=st.lists(states() | st.sampled_from(NAMES), max_size=30), num_tokens=st.integers(0, 1000))
def test_who_has_room_is_kept_up_change_by_change(
    changes: list[EngineState | EngineId], num_tokens: int
) -> None:
    roster = Roster(latency_target_s=TARGET_S)
    now: dict[EngineId, EngineState] = {}
    for change in changes:
        if isinstance(change, EngineState):
            now[change.engine_id] = change
            roster.put(change, NAMES.index(change.engine_id))
        else:
            now.pop(change, None)
            roster.drop(change)
    standing = roster.standing("m") or Standing(TARGET_S)
    for small in (False, True):
        expected = {e for e, state in now.items() if room_for(state, num_tokens, small=small)}
        assert seen(standing, num_tokens, small=small) == expected
        free = [
            math.inf if state.num_calls == 0 else state.capacity_tokens - state.num_tokens
            for state in now.values()
            if room_for(state, -1000, small=small)
        ]
        assert standing.free_for[small].most == max(free, default=-math.inf)


def test_a_change_to_a_copy_does_not_show_in_what_was_copied() -> None:
    roster = Roster((EngineState(engine_id=NAMES[0], model="m", max_batch=8),), latency_target_s=TARGET_S)
    standing = roster.of("m")
    standing.copy().remove(NAMES[0])
    assert seen(standing, 1, small=True) == {NAMES[0]}


def rounds() -> Iterator[Round]:
    """One engine is idle, one has a call."""
    engines = [
        EngineState(engine_id=name, model="m", max_batch=8, num_calls=n) for n, name in enumerate(NAMES[:2])
    ]
    yield Round(Snapshot(ready=(), engines=engines, index=PrefixIndex()))
    yield Round(Snapshot(ready=(), engines=Roster(engines), index=PrefixIndex()))


def test_reserved_engines_are_gone_when_engines_are_looked_at_again() -> None:
    for going in rounds():
        going.reserve("m")
        going.reserve("another model")
        standing = going.standing("m")
        assert standing is not None
        assert seen(standing, 0, small=False) == {NAMES[1]}
        going.reserve("m")
        assert going.standing("m") is standing
        assert standing.free_for[False].most == going.free_at_most("m", small=False) == -math.inf


def test_the_longest_beginning_that_is_held_or_planned_counts() -> None:
    keys = tuple(PrefixKey(bytes([number])) for number in range(3))
    call = ReadyCall(
        call_id=CallId("1"),
        model="m",
        keys=keys,
        lengths=(10, 20, 30),
        num_prompt_tokens=35,
        num_output_tokens=5,
    )
    index = PrefixIndex()
    engine = EngineState(engine_id=NAMES[0], model="m", max_batch=8)
    going = Round(Snapshot(ready=(call,), engines=(engine,), index=index))
    assert going.most_shared(call) == 0
    index.add(NAMES[0], keys[1], ContextRef(context_id=ContextId(1), num_tokens=20))
    assert going.most_shared(call) == 20
    going.place(call, engine, 20, "as a test wants")
    assert going.most_shared(call) == 30
