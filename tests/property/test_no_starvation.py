"""However calls come, none waits for ever: the order and the policy together, over random loads."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from parrot.core.estimates import Work
from parrot.core.fairness import FairQueue, WaitingCall
from parrot.core.policies import make_policy
from parrot.core.precedence import AGE_S, BULK_S, STARVATION_S, URGENCY_S, WORK_S, due_s
from parrot.core.prefixes import PrefixIndex
from parrot.core.roster import EngineState
from parrot.core.scheduler import ReadyCall, Snapshot
from parrot.types.ids import CallId, EngineId, SessionId, TenantId
from parrot.types.objective import CallObjective

TICK_S = 10.0
LONGEST_RUN = 6
"""Ticks that a call takes at most."""
CAPACITY = 1000
"""Tokens that an engine holds."""
DRAIN_S = (LONGEST_RUN + 1) * TICK_S
"""An engine that takes nothing new is empty after this; what does not mind may go elsewhere meanwhile."""


@dataclass(slots=True)
class Cluster:
    """Engines that run what is placed on them for as many ticks as it says, one round each tick."""

    num_engines: int
    now_s: float = 0.0
    queue: FairQueue = field(default_factory=FairQueue)
    waiting: dict[CallId, ReadyCall] = field(default_factory=dict)
    runs: dict[CallId, int] = field(default_factory=dict)
    running: dict[EngineId, dict[CallId, tuple[ReadyCall, int]]] = field(default_factory=dict)
    ready_at_s: dict[CallId, float] = field(default_factory=dict)
    placed_at_s: dict[CallId, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.running = {EngineId(f"e{i}"): {} for i in range(self.num_engines)}

    def arrive(self, tokens: int, run: int, age_s: float, left: int, objective: CallObjective) -> None:
        call_id = CallId(f"c{len(self.ready_at_s):05}")
        self.ready_at_s[call_id], self.runs[call_id] = self.now_s, run
        self.waiting[call_id] = ReadyCall(
            call_id=call_id, model="m", keys=(), lengths=(), num_prompt_tokens=tokens, objective=objective
        )
        due = due_s(
            ready_at_s=self.now_s,
            submitted_at_s=self.now_s - age_s,
            remaining=Work(prompt_tokens=left),
            bulk=objective.objective == "throughput",
        )
        self.queue.add(
            WaitingCall(
                call_id=call_id,
                tenant_id=TenantId("t"),
                session_id=SessionId(call_id),
                expected=Work(prompt_tokens=tokens),
                rank=(due,),
            )
        )

    def tick(self) -> None:
        for engine_id, calls in self.running.items():
            self.running[engine_id] = {
                call_id: (call, left - 1) for call_id, (call, left) in calls.items() if left > 1
            }
        engines = [
            EngineState(
                engine_id=engine_id,
                model="m",
                max_batch=8,
                num_calls=len(calls),
                num_latency_calls=sum(call.wants_small_batches for call, _ in calls.values()),
                num_tokens=sum(call.num_prompt_tokens for call, _ in calls.values()),
                capacity_tokens=CAPACITY,
            )
            for engine_id, calls in self.running.items()
        ]
        ready = [self.waiting[call_id] for call_id in self.queue.order()]
        snapshot = Snapshot(ready=ready, engines=engines, index=PrefixIndex())
        for placement in make_policy("app-centric")(snapshot).placements:
            call_id = placement.call_id
            self.queue.admit(call_id)
            self.running[placement.engine_id][call_id] = (self.waiting.pop(call_id), self.runs[call_id])
            self.placed_at_s[call_id] = self.now_s
        self.now_s += TICK_S


OBJECTIVES = st.sampled_from(
    [
        CallObjective(objective="latency"),
        CallObjective(objective="throughput"),
        CallObjective(objective="latency", task_group="g"),
    ]
)
ARRIVAL = st.tuples(
    st.sampled_from([20, 50, 100, 400, 900, 1000]),
    st.integers(1, LONGEST_RUN),
    st.sampled_from([0.0, 30.0, 1000.0]),
    st.sampled_from([0, 10_000, 10_000_000]),
    OBJECTIVES,
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(ARRIVAL, max_size=5), min_size=5, max_size=80),
    st.integers(1, 3),
)
def test_no_call_is_passed_by_those_that_come_much_later(
    arrivals: Sequence[Sequence[tuple[int, int, float, int, CallObjective]]], num_engines: int
) -> None:
    """F7: whoever gets ready `STARVATION_S` and an engine's draining later is not placed before."""
    cluster = Cluster(num_engines)
    for several in arrivals:
        for tokens, run, age_s, left, objective in several:
            cluster.arrive(tokens, run, age_s, left, objective)
        cluster.tick()
    for _ in range(LONGEST_RUN * (len(cluster.waiting) + 1)):
        cluster.tick()
    assert not cluster.waiting, "everything is placed in the end"
    ready, placed = cluster.ready_at_s, cluster.placed_at_s
    for one in ready:
        for two in ready:
            if ready[two] > ready[one] + STARVATION_S + DRAIN_S:
                assert placed[one] <= placed[two]


def test_a_large_call_is_placed_although_small_ones_keep_coming() -> None:
    cluster = Cluster(2)
    bulk = CallObjective(objective="throughput")
    for _ in range(5):
        for _ in range(4):
            cluster.arrive(150, 4, 0.0, 0, bulk)
        cluster.tick()
    cluster.arrive(CAPACITY, 1, 0.0, 10_000_000, bulk)
    large = next(reversed(cluster.ready_at_s))
    while large in cluster.waiting:
        for _ in range(4):
            cluster.arrive(150, 4, 0.0, 0, bulk)
        cluster.tick()
    assert cluster.placed_at_s[large] - cluster.ready_at_s[large] <= WORK_S + BULK_S + 5 * DRAIN_S


@given(
    st.floats(0, 1e6),
    st.floats(0, 1e5),
    st.integers(0, 10**9),
    st.booleans(),
    st.one_of(st.none(), st.floats(-1e6, 1e6)),
    st.floats(-1e6, 1e6),
)
def test_age_work_deadlines_and_urgency_move_a_call_within_bounds(
    ready_at_s: float, age_s: float, left: int, bulk: bool, start_by_s: float | None, urgency_s: float
) -> None:
    due = due_s(
        ready_at_s=ready_at_s,
        submitted_at_s=ready_at_s - age_s,
        remaining=Work(output_tokens=left),
        bulk=bulk,
        start_by_s=start_by_s,
        urgency_s=urgency_s,
    )
    assert ready_at_s - AGE_S - URGENCY_S - 1e-6 <= due <= ready_at_s + WORK_S + BULK_S + URGENCY_S + 1e-6


def test_of_sessions_that_came_together_the_one_with_less_left_is_first_and_the_older_before_both() -> None:
    def due(submitted_at_s: float, left: int) -> float:
        return due_s(ready_at_s=100.0, submitted_at_s=submitted_at_s, remaining=Work(prompt_tokens=left))

    assert due(90.0, 1000) < due(90.0, 5000)
    assert due(60.0, 50_000) < due(90.0, 1000)


def test_a_deadline_comes_before_age_and_throughput_work_after() -> None:
    work = Work(prompt_tokens=1000)
    usual = due_s(ready_at_s=100.0, submitted_at_s=100.0, remaining=work)
    assert due_s(ready_at_s=100.0, submitted_at_s=100.0, remaining=work, start_by_s=50.0) == 50.0
    assert due_s(ready_at_s=100.0, submitted_at_s=100.0, remaining=work, bulk=True) == usual + BULK_S


def test_what_its_client_wants_earlier_is_due_earlier() -> None:
    work = Work(prompt_tokens=1000)
    usual = due_s(ready_at_s=100.0, submitted_at_s=100.0, remaining=work)
    assert due_s(ready_at_s=100.0, submitted_at_s=100.0, remaining=work, urgency_s=5.0) == usual - 5.0
