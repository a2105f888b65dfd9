"""Placements of the first two policies, and what every policy must keep."""

import random

import pytest

from parrot.core.policies import POLICIES
from parrot.core.policies.longest_prefix import OVERFULL
from parrot.core.prefixes import PrefixIndex
from parrot.core.scheduler import EngineState, ReadyCall, Schedule, Snapshot
from parrot.core.service_config import PolicyName
from parrot.ports.engine import ContextRef
from parrot.types.ids import CallId, ContextId, EngineId, PrefixKey

NAMES: tuple[PolicyName, ...] = ("fifo", "longest-prefix")


def engine(name: str, *, model: str = "m", num_calls: int = 0, max_batch: int = 8) -> EngineState:
    return EngineState(engine_id=EngineId(name), model=model, num_calls=num_calls, max_batch=max_batch)


def call(name: str, *keys: str, model: str = "m") -> ReadyCall:
    return ReadyCall(
        call_id=CallId(name),
        model=model,
        keys=tuple(PrefixKey(key.encode()) for key in keys),
        lengths=tuple(10 * (i + 1) for i in range(len(keys))),
        num_prompt_tokens=10 * len(keys),
    )


def holding(**engines: str) -> PrefixIndex:
    """Each engine holds the prefixes named by the letters of its string."""
    index = PrefixIndex()
    for name, keys in engines.items():
        for number, key in enumerate(keys):
            ref = ContextRef(context_id=ContextId(number), num_tokens=10 * (number + 1))
            index.add(EngineId(name), PrefixKey(key.encode()), ref)
    return index


def where(schedule: Schedule) -> dict[str, str]:
    return {str(p.call_id): str(p.engine_id) for p in schedule.placements}


def test_fifo_fills_the_emptiest_engine_in_order_of_arrival() -> None:
    snapshot = Snapshot(
        ready=[call("1"), call("2"), call("3")],
        engines=[engine("a", num_calls=2), engine("b", num_calls=0)],
        index=PrefixIndex(),
    )
    assert where(POLICIES["fifo"](snapshot)) == {"1": "b", "2": "b", "3": "a"}


def test_longest_prefix_goes_where_the_prompt_is() -> None:
    snapshot = Snapshot(
        ready=[call("1", "x", "y", "z")],
        engines=[engine("a"), engine("b", num_calls=3), engine("c", num_calls=5)],
        index=holding(b="x", c="xy"),
    )
    (placement,) = POLICIES["longest-prefix"](snapshot).placements
    assert placement.engine_id == "c"
    assert placement.num_shared_tokens == 20
    assert "20 tokens" in placement.why


def test_calls_of_one_round_see_each_other() -> None:
    snapshot = Snapshot(
        ready=[call("1", "x"), call("2", "x"), call("3", "q"), call("4", "x")],
        engines=[engine("a"), engine("b")],
        index=PrefixIndex(),
    )
    placed = where(POLICIES["longest-prefix"](snapshot))
    assert placed["1"] == placed["2"] == placed["4"]
    assert placed["3"] != placed["1"]


def test_an_overfull_holder_is_passed_over_while_another_has_room() -> None:
    full = int(OVERFULL * 8)
    snapshot = Snapshot(
        ready=[call("1", "x")], engines=[engine("a", num_calls=full), engine("b")], index=holding(a="x")
    )
    assert where(POLICIES["longest-prefix"](snapshot)) == {"1": "b"}


@pytest.mark.parametrize("name", NAMES)
def test_a_call_whose_model_is_down_is_deferred(name: PolicyName) -> None:
    snapshot = Snapshot(
        ready=[call("1", model="other"), call("2")], engines=[engine("a")], index=PrefixIndex()
    )
    schedule = POLICIES[name](snapshot)
    assert schedule.deferred == ("1",)
    assert where(schedule) == {"2": "a"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(20))
def test_every_call_is_placed_or_deferred_exactly_once(name: PolicyName, seed: int) -> None:
    draw = random.Random(seed)
    models = ["m", "n", "o"]
    engines = [
        engine(str(i), model=draw.choice(models[:2]), num_calls=draw.randrange(20))
        for i in range(draw.randrange(6))
    ]
    calls = [
        call(str(i), *draw.sample("uvwxyz", draw.randrange(4)), model=draw.choice(models)) for i in range(40)
    ]
    schedule = POLICIES[name](Snapshot(ready=calls, engines=engines, index=PrefixIndex()))
    served = {e.model for e in engines}
    names = [p.call_id for p in schedule.placements] + list(schedule.deferred)
    assert sorted(names) == sorted(c.call_id for c in calls)
    assert set(schedule.deferred) == {c.call_id for c in calls if c.model not in served}
    by_engine = {e.engine_id: e.model for e in engines}
    assert all(by_engine[p.engine_id] == calls[int(p.call_id)].model for p in schedule.placements)
