"""Placements of the first two policies, and what every policy must keep."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from parrot.core.cost_model import EnginePace
from parrot.core.policies import POLICIES, Policy, make_policy
from parrot.core.prefixes import PrefixIndex
from parrot.core.roster import EngineState, Roster
from parrot.core.scheduler import ReadyCall, Schedule, Snapshot
from parrot.core.service_config import PolicyName
from parrot.ports.engine import ContextRef
from parrot.types.ids import CallId, ContextId, EngineId, PrefixKey
from parrot.types.objective import CallObjective

NAMES = tuple(POLICIES)
BOUNDED: tuple[PolicyName, ...] = (
    "request-level",
    "throughput",
    "priority-hints",
    "cache-aware",
    "app-centric",
)
LATENCY = CallObjective(objective="latency")
THROUGHPUT = CallObjective(objective="throughput")


def group(name: str) -> CallObjective:
    return CallObjective(objective="latency", task_group=name)


OBJECTIVES = (LATENCY, THROUGHPUT, group("g"))


def engine(name: str, *, model: str = "m", max_batch: int = 8, **fields: Any) -> EngineState:
    return EngineState(engine_id=EngineId(name), model=model, max_batch=max_batch, **fields)


def call(name: str, *keys: str, model: str = "m", objective: CallObjective = LATENCY) -> ReadyCall:
    return ReadyCall(
        objective=objective,
        num_output_tokens=10,
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


@pytest.mark.parametrize("name", NAMES)
def test_a_call_whose_model_is_down_is_deferred(name: PolicyName) -> None:
    snapshot = Snapshot(
        ready=[call("1", model="other"), call("2")], engines=[engine("a")], index=PrefixIndex()
    )
    assert where(POLICIES[name](snapshot)) == {"2": "a"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(20))
def test_calls_are_placed_once_and_where_their_model_is(name: PolicyName, seed: int) -> None:
    draw = random.Random(seed)
    models = ["m", "n", "o"]
    engines = [
        engine(str(i), model=draw.choice(models[:2]), num_calls=draw.randrange(20), max_batch=12)
        for i in range(draw.randrange(6))
    ]
    calls = [
        call(
            str(i),
            *draw.sample("uvwxyz", draw.randrange(4)),
            model=draw.choice(models),
            objective=draw.choice(OBJECTIVES),
        )
        for i in range(40)
    ]
    schedule = POLICIES[name](Snapshot(ready=calls, engines=engines, index=PrefixIndex()))
    names = [p.call_id for p in schedule.placements]
    assert len(set(names)) == len(names)
    by_engine = {e.engine_id: e.model for e in engines}
    assert all(by_engine[p.engine_id] == calls[int(p.call_id)].model for p in schedule.placements)


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("seed", range(20))
def test_no_engine_is_filled_beyond_its_batch(name: PolicyName, seed: int) -> None:
    draw = random.Random(seed)
    engines = [
        engine(str(i), num_calls=draw.randrange(12), max_batch=draw.randrange(1, 12)) for i in range(5)
    ]
    calls = [call(str(i), objective=draw.choice(OBJECTIVES)) for i in range(80)]
    schedule = POLICIES[name](Snapshot(ready=calls, engines=engines, index=PrefixIndex()))
    placed = Counter(p.engine_id for p in schedule.placements)
    for e in engines:
        assert placed[e.engine_id] <= max(0, e.max_batch - e.num_calls)


@pytest.mark.parametrize("name", BOUNDED)
def test_no_call_waits_while_an_engine_is_empty(name: PolicyName) -> None:
    calls = [call(str(i), objective=OBJECTIVES[i % 3]) for i in range(8)]
    for i in range(1, 8):
        engines = [engine("full", num_calls=8), *(engine(str(k)) for k in range(i))]
        assert POLICIES[name](Snapshot(ready=calls, engines=engines, index=PrefixIndex())).placements


def grouped(num_calls: int, *, prompt: int, common: int) -> list[ReadyCall]:
    """The calls of a task group whose prompts begin with `common` tokens that all have."""
    return [
        replace(
            call(str(i), "x", f"y{i}", objective=group("g")),
            lengths=(common, prompt),
            num_prompt_tokens=prompt,
        )
        for i in range(num_calls)
    ]


def test_a_task_group_with_a_long_common_prefix_stays_together_where_that_is() -> None:
    calls = grouped(6, prompt=5000, common=4900)
    engines = [engine("a"), engine("b", num_calls=1), engine("c")]
    snapshot = Snapshot(ready=calls, engines=engines, index=PrefixIndex())
    assert len(set(where(POLICIES["app-centric"](snapshot)).values())) == 1
    held = PrefixIndex()
    held.add(EngineId("b"), PrefixKey(b"x"), ContextRef(context_id=ContextId(1), num_tokens=4900))
    snapshot = Snapshot(ready=calls, engines=engines, index=held)
    assert set(where(POLICIES["app-centric"](snapshot)).values()) == {"b"}


def test_a_task_group_that_shares_little_is_spread_so_that_its_last_call_ends_sooner() -> None:
    calls = grouped(12, prompt=1000, common=20)
    engines = [engine("a"), engine("b"), engine("c"), engine("d", num_calls=7, num_unfilled_tokens=90_000)]
    placed = Counter(
        where(POLICIES["app-centric"](Snapshot(ready=calls, engines=engines, index=PrefixIndex()))).values()
    )
    assert placed == {"a": 4, "b": 4, "c": 4}


def test_a_task_group_goes_on_where_there_is_room_when_its_engine_is_full() -> None:
    calls = grouped(12, prompt=5000, common=4900)
    snapshot = Snapshot(ready=calls, engines=[engine("a"), engine("b")], index=PrefixIndex())
    placed = where(POLICIES["app-centric"](snapshot))
    assert len(placed) == 12
    assert sorted(Counter(placed.values()).values()) == [4, 8]


def test_a_task_group_has_its_turn_when_the_first_of_its_calls_has() -> None:
    first, *others = grouped(3, prompt=100, common=20)
    ready = [first, *(call(f"s{i}") for i in range(8)), *others]
    snapshot = Snapshot(ready=ready, engines=[engine("a")], index=PrefixIndex())
    placed = where(POLICIES["app-centric"](snapshot))
    assert {"0", "1", "2"} <= set(placed)
    apart = where(make_policy("app-centric", ["groups"])(snapshot))
    assert {"0", "1", "2"} & set(apart) == {"0"}


def test_calls_go_where_they_delay_others_least() -> None:
    """Both engines would have it done at about the same time, but on one of them seven calls would wait."""
    pace = EnginePace(base_s=0.03, decode_s=0.0001, prefill_s=0.0005)
    engines = [engine("a", num_calls=7, pace=pace), engine("b", num_unfilled_tokens=40, pace=pace)]
    snapshot = Snapshot(
        ready=[replace(call("1"), num_prompt_tokens=2000)], engines=engines, index=PrefixIndex()
    )
    assert where(POLICIES["app-centric"](snapshot)) == {"1": "b"}


def test_where_shared_kv_is_read_once_it_is_worth_being_together() -> None:
    """Prefill costs next to nothing here; what counts is the KV that every step reads."""
    pace = EnginePace(base_s=0.02, decode_s=0.001, prefill_s=1e-9, kv_s=3e-6)
    calls = [
        replace(each, num_output_tokens=500, objective=LATENCY)
        for each in grouped(4, prompt=6000, common=5900)
    ]
    engines = [
        engine("a", num_calls=2, num_tokens=12_000, pace=pace),
        engine("b", num_calls=2, num_tokens=12_000, pace=pace),
    ]
    placed = where(POLICIES["app-centric"](Snapshot(ready=calls, engines=engines, index=PrefixIndex())))
    assert len(set(placed.values())) == 1


def test_the_first_call_that_finds_no_memory_keeps_an_engine_for_itself() -> None:
    large = replace(call("large", objective=THROUGHPUT), num_prompt_tokens=900)
    small = [replace(call(str(i), objective=THROUGHPUT), num_prompt_tokens=40) for i in range(4)]
    engines = [
        engine("a", num_calls=1, num_tokens=200, capacity_tokens=1000),
        engine("b", num_calls=2, num_tokens=400, capacity_tokens=1000),
    ]
    snapshot = Snapshot(ready=[large, *small], engines=engines, index=PrefixIndex())
    assert where(POLICIES["app-centric"](snapshot)) == dict.fromkeys("0123", "b")


def test_requests_go_to_a_prefix_only_when_it_is_much_of_the_prompt_and_loads_are_balanced() -> None:
    request = replace(call("1", "x"), num_prompt_tokens=30)
    policy = POLICIES["cache-aware"]
    engines = [engine("a", max_batch=99, num_calls=1), engine("b", max_batch=99)]
    assert where(policy(Snapshot(ready=[request], engines=engines, index=holding(a="x")))) == {"1": "a"}
    little = replace(request, num_prompt_tokens=40)
    assert where(policy(Snapshot(ready=[little], engines=engines, index=holding(a="x")))) == {"1": "b"}
    apart = [engine("a", max_batch=99, num_calls=17), engine("b", max_batch=99)]
    assert where(policy(Snapshot(ready=[request], engines=apart, index=holding(a="x")))) == {"1": "b"}
    busy = [engine("a", max_batch=99, num_calls=60), engine("b", max_batch=99, num_calls=41)]
    assert where(policy(Snapshot(ready=[request], engines=busy, index=holding(a="x")))) == {"1": "a"}


def test_hinted_requests_come_first_in_a_full_cluster() -> None:
    calls = [call("1", objective=THROUGHPUT), call("2", objective=LATENCY)]
    snapshot = Snapshot(ready=calls, engines=[engine("a", num_calls=7)], index=PrefixIndex())
    assert where(POLICIES["priority-hints"](snapshot)) == {"2": "a"}
    assert where(POLICIES["throughput"](snapshot)) == {"1": "a"}


SLOW = EnginePace(base_s=0.02, decode_s=0.02, prefill_s=0.001)


def test_a_call_somebody_waits_for_is_kept_from_an_engine_full_of_throughput_work() -> None:
    busy = engine("a", num_calls=7, pace=SLOW)
    waited_for = call("1", "x", objective=LATENCY)
    placed = where(
        POLICIES["app-centric"](
            Snapshot(ready=[waited_for], engines=[busy, engine("b", pace=SLOW)], index=holding(a="x"))
        )
    )
    assert placed == {"1": "b"}


def test_a_waited_for_call_without_room_has_the_next_place() -> None:
    busy = engine("a", num_calls=6, pace=SLOW)
    calls = [call("1", objective=LATENCY), call("2", objective=THROUGHPUT)]
    snapshot = Snapshot(ready=calls, engines=[busy], index=PrefixIndex())
    assert where(POLICIES["app-centric"](snapshot)) == {}
    drained = engine("a", num_calls=3, pace=SLOW)
    snapshot = Snapshot(ready=calls, engines=[drained], index=PrefixIndex())
    assert where(POLICIES["app-centric"](snapshot)) == {"1": "a"}


def test_throughput_work_fills_an_engine_up_to_its_batch() -> None:
    calls = [call(str(i), objective=THROUGHPUT) for i in range(20)]
    snapshot = Snapshot(ready=calls, engines=[engine("a", pace=SLOW)], index=PrefixIndex())
    assert len(POLICIES["app-centric"](snapshot).placements) == 8


def test_a_latency_call_on_an_engine_bounds_its_batch() -> None:
    calls = [call(str(i), objective=THROUGHPUT) for i in range(20)]
    mixed = engine("a", num_calls=1, num_latency_calls=1, pace=SLOW)
    snapshot = Snapshot(ready=calls, engines=[mixed], index=PrefixIndex())
    assert len(POLICIES["app-centric"](snapshot).placements) == SLOW.batch_within(0.1, 8) - 1


def test_a_prefix_is_left_behind_when_waiting_for_it_would_take_longer() -> None:
    loaded = engine("a", num_calls=4, num_unfilled_tokens=50_000, pace=SLOW)
    snapshot = Snapshot(
        ready=[call("1", "x", objective=THROUGHPUT)],
        engines=[loaded, engine("b", pace=SLOW)],
        index=holding(a="x"),
    )
    assert where(POLICIES["app-centric"](snapshot)) == {"1": "b"}


def test_memory_bounds_what_an_engine_takes() -> None:
    calls = [call(str(i), f"k{i}", f"m{i}", f"n{i}") for i in range(10)]
    tight = engine("a", capacity_tokens=100)
    snapshot = Snapshot(ready=calls, engines=[tight], index=PrefixIndex())
    assert len(POLICIES["app-centric"](snapshot).placements) == 2


def test_a_round_over_a_full_cluster_reads_little_of_a_long_queue() -> None:
    read = 0

    def waiting() -> Iterator[ReadyCall]:
        nonlocal read
        for i in range(100_000):
            read += 1
            yield call(str(i))

    full = [engine(str(i), num_calls=8) for i in range(64)]
    assert not POLICIES["app-centric"](
        Snapshot(ready=waiting(), engines=full, index=PrefixIndex())
    ).placements
    assert read <= 1


@pytest.mark.parametrize("policy", list(POLICIES.values()), ids=list(POLICIES))
def test_a_round_leaves_the_engines_as_they_were(policy: Policy) -> None:
    engines = [engine(name, num_calls=number, num_tokens=5) for number, name in enumerate("abc")]
    before = [each.copy() for each in engines]
    roster = Roster(engines)
    calls = [call(f"c{number}", "p") for number in range(6)]
    first, second = (policy(Snapshot(ready=calls, engines=roster, index=holding(a="p"))) for _ in range(2))
    assert engines == before
    assert first == second
    assert len(first.placements) == 6
