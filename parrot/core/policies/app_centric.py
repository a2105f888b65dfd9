"""The policy that sees applications (paper, algorithm 1, with finish times in place of membership).

In the order given:

* a call goes where it is done first, the delay of the calls that are there taken into account
  (`forecast.py`): what an engine holds of its prompt draws it there, what waits there keeps it away;
* a **task group** is placed at the turn of its first call, each of its calls where the group is done first:
  on one engine when that has the prefix, or room while the others are busy, else spread. Its calls do not
  mind delaying each other, since only the last of them counts;
* a call that somebody waits for runs only in batches whose steps stay within the latency target;
* throughput work is kept from engines with such calls while others have room, and fills engines up to their
  batch;
* what finds no room keeps an engine free for itself if somebody waits for it, or if it is the first that was
  refused: nothing else is placed there in this round. So no call starves, however large it is.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from parrot.core.policies.forecast import forecast
from parrot.core.roster import EngineState, Standing
from parrot.core.scheduler import ReadyCall, Round, Schedule, Shared, Snapshot
from parrot.types.ids import CallId, EngineId, PrefixKey

LOOK_AHEAD = 32
"""Ready calls that a round tries in vain before it gives up; what waits behind them has a later one."""
NUM_CANDIDATES = 4
"""Engines that are compared for a call, beside those that hold some of its prompt: the first to get to it."""

_Candidate = tuple[EngineState, int]
"""An engine, and how many tokens of a call's prompt it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppCentric:
    """The policy, and which of its ingredients are on."""

    groups: bool = True
    """Place task groups together, for their joint completion."""
    affinity: bool = True
    """Take into account where prefixes are."""
    isolation: bool = True
    """Keep latency-sensitive calls and full batches apart."""

    def __call__(self, snapshot: Snapshot) -> Schedule:
        """One round."""
        return _AppCentricRound(self, snapshot).run()


class _AppCentricRound:
    def __init__(self, policy: AppCentric, snapshot: Snapshot) -> None:
        self._policy = policy
        target_s = snapshot.latency_target_s if policy.isolation else math.inf
        self._going = Round(snapshot, latency_target_s=target_s)
        self._refused: dict[tuple[str, bool], int] = {}
        """Of calls that nothing had room for, by model and by whether they want small batches: the least
        tokens needed. Room only shrinks in a round, so what needs as much is refused without a look."""
        self._free_at_most: dict[tuple[str, bool], float] = {}
        """By model and by whether small batches are wanted: the memory that engines have free, when they were
        last looked at."""
        self._refused_there: dict[tuple[str, bool, tuple[PrefixKey, ...]], int] = {}
        """The same for calls that share what is there, by what that is; until something is placed."""
        self._reserved: set[str] = set()
        """Models of which an engine is kept for the first call that was refused."""

    def run(self) -> Schedule:
        room = self._going.num_places
        num_refused = 0
        for calls in self._units() if room else ():
            beside: dict[EngineId, int] = {}
            for call in calls:
                engine_id = self._place(call, beside)
                if engine_id is None:
                    num_refused += 1
                else:
                    num_refused = 0
                    beside[engine_id] = beside.get(engine_id, 0) + 1
            if len(self._going.placements) >= room or num_refused >= LOOK_AHEAD:
                break
        return self._going.schedule()

    def _units(self) -> Iterator[Sequence[ReadyCall]]:
        """What is placed together: groups at the place of their first call, and single calls. Reads no
        further than it is asked to.
        """
        group_of = self._going.snapshot.group_of
        done: set[CallId] = set()
        calls = iter(self._going.snapshot.ready)
        if group_of is None:
            everything = tuple(calls)
            calls, group_of = iter(everything), partial(_group_among, everything)
        for call in calls:
            if call.call_id in done:
                continue
            if call.objective.task_group is None or not self._policy.groups:
                yield (call,)
                continue
            unit = group_of(call)
            done.update([other.call_id for other in unit])
            yield unit

    def _place(self, call: ReadyCall, beside: Mapping[EngineId, int]) -> EngineId | None:
        """Put a call where it costs least; None when no engine has room for it now.

        `beside` counts the calls of its group that were placed in this round.
        """
        small, needed, model = call.wants_small_batches, call.num_tokens, call.model
        kind = (model, small)
        free_at_most = self._free_at_most.get(kind)
        if free_at_most is None:
            free_at_most = self._free_at_most[kind] = self._going.free_at_most(model, small=small)
        if needed > free_at_most and needed - self._going.most_shared(call) > free_at_most:
            # Whatever is there of it, it does not fit: most calls of a long queue are done with here.
            if needed < self._refused.get(kind, math.inf):
                self._refused[kind] = needed
            if small or model not in self._reserved:
                self._defer(call)
            return None
        standing = self._going.standing(model)
        if standing is None:
            return None
        self._free_at_most[kind] = standing.free_for[small].most
        refused = (call.model, small, self._going.held_keys(call))
        if needed >= self._refused_there.get(refused, math.inf):
            self._defer(call)
            return None
        held = self._going.shared_tokens(call)
        chosen = self._cheapest(call, self._candidates(call, standing, held, small=small), beside)
        if chosen is None:
            self._refused_there[refused] = needed
            self._defer(call)
            return None
        (engine, shared), finish_s = chosen
        self._refused_there.clear()
        engine_id = engine.engine_id
        self._going.place(call, engine, shared, _why(call, finish_s, shared, beside.get(engine_id, 0)))
        return engine_id

    def _candidates(
        self, call: ReadyCall, standing: Standing, held: Shared, *, small: bool
    ) -> Iterable[_Candidate]:
        """Engines that have room, and the tokens they have of the prompt: those that hold some of it, then
        those that get to it soonest. Of idle engines that are alike the first stands for all.
        """
        found: dict[EngineId, _Candidate] = {}
        idle: set[tuple[int, int]] = set()
        for engine, shared in self._going.holders(standing, held, call.num_tokens, small=small):
            if engine.num_calls == 0:
                alike = (shared, id(engine.pace))
                if alike in idle:
                    continue
                idle.add(alike)
            found[engine.engine_id] = (engine, shared)
        for engine, shared in self._soonest_fitting(call, standing, held, small=small):
            found.setdefault(engine.engine_id, (engine, shared))
        return found.values()

    def _cheapest(
        self, call: ReadyCall, candidates: Iterable[_Candidate], beside: Mapping[EngineId, int]
    ) -> tuple[_Candidate, float] | None:
        """The engine for a call, and when the call is done there. Those where it would mix work come last;
        of equals the first is taken.
        """
        best: tuple[bool, float] = (True, math.inf)
        chosen: tuple[_Candidate, float] | None = None
        affinity, is_bulk = self._policy.affinity, self._is_bulk(call)
        for candidate in candidates:
            engine, shared = candidate
            num_beside = beside.get(engine.engine_id, 0)
            finish_s, cost_s = forecast(engine, call, shared if affinity else 0, num_beside)
            cost = (is_bulk and engine.num_latency_calls > 0, cost_s)
            if chosen is None or cost < best:
                best, chosen = cost, (candidate, finish_s)
        return chosen

    def _soonest_fitting(
        self, call: ReadyCall, standing: Standing, held: Shared, *, small: bool
    ) -> Sequence[_Candidate]:
        """The engines that get to it soonest, those that would not mix work if there are any."""
        needed = call.num_tokens
        if self._is_refused(call.model, standing, small=small, needed=needed):
            return ()
        is_bulk = self._is_bulk(call)
        apart: list[_Candidate] = []
        mixed: list[_Candidate] = []
        for engine, free_tokens in standing.fitting(needed - held.most, small=small):
            shared = held.get(engine.engine_id)
            if needed - shared <= free_tokens:
                (mixed if is_bulk and engine.num_latency_calls else apart).append((engine, shared))
            if len(apart) == NUM_CANDIDATES:
                break
        if not (apart or mixed):
            self._refused[call.model, small] = needed
        return apart or mixed[:NUM_CANDIDATES]

    def _is_refused(self, model: str, standing: Standing, *, small: bool, needed: int) -> bool:
        """Whether it is known that no engine has room for so much, unless it holds some of it."""
        return needed > standing.free.most or needed >= self._refused.get((model, small), math.inf)

    def _defer(self, call: ReadyCall) -> None:
        """No engine has room: have the call come next on some engine, if it may ask for that."""
        waited_for = call.wants_small_batches and self._policy.isolation
        if waited_for or call.model not in self._reserved:
            self._reserved.add(call.model)
            self._going.reserve(call.model)

    def _is_bulk(self, call: ReadyCall) -> bool:
        """Whether it would slow down calls that somebody waits for, and nobody waits for it."""
        return self._policy.isolation and call.objective.objective == "throughput"


def _why(call: ReadyCall, finish_s: float, shared: int, num_beside: int) -> str:
    why = f"done there first, in about {finish_s:.2f} s"
    if call.objective.task_group is not None:
        why += f", {num_beside} of its group are there"
    return why + (f", {shared} tokens of its prompt are there" if shared else "")


def _group_among(calls: Sequence[ReadyCall], call: ReadyCall) -> Sequence[ReadyCall]:
    """The calls of a call's group."""
    group = (call.objective.task_group, call.model)
    return [other for other in calls if (other.objective.task_group, other.model) == group]
