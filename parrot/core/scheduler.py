"""One scheduling round: a snapshot in, a schedule out. Pure: served, simulated, tested and explained
alike.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import msgspec

from parrot.core.prefixes import PrefixIndex
from parrot.core.roster import LATENCY_TARGET_S, EngineState, Roster, Standing
from parrot.types.ids import CallId, EngineId, PrefixKey
from parrot.types.objective import CallObjective

DEFAULT_OBJECTIVE = CallObjective(objective="latency")


MANY_HOLDERS = 16
"""A prefix that more engines hold is not a reason to look at each of them."""


@dataclass(slots=True, kw_only=True)
class ReadyCall:
    """A call whose inputs are all there. Made once for each call, and not changed."""

    call_id: CallId
    model: str
    keys: tuple[PrefixKey, ...]
    """Prefix keys at its boundaries before the first output, shortest prefix first."""
    lengths: tuple[int, ...]
    """Tokens up to each of these boundaries."""
    num_prompt_tokens: int
    num_output_tokens: int = 0
    """Expected."""
    objective: CallObjective = DEFAULT_OBJECTIVE
    num_tokens: int = field(init=False)
    """Of the prompt and the output."""
    wants_small_batches: bool = field(init=False)
    """Somebody waits for this very call, so it must not run in a batch that slows its tokens down."""

    def __post_init__(self) -> None:
        self.num_tokens = self.num_prompt_tokens + self.num_output_tokens
        self.wants_small_batches = self.objective.batched_for == "latency"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a round may look at."""

    ready: Iterable[ReadyCall]
    """In the order in which they have a claim to be placed. A round may stop reading when nothing has
    room."""
    engines: Collection[EngineState]
    """Those that are up; a `Roster`, which is kept between rounds, spares the round ordering them."""
    index: PrefixIndex
    """Read only."""
    latency_target_s: float = LATENCY_TARGET_S
    """A step with a latency-sensitive call in it should not take longer."""
    group_of: Callable[[ReadyCall], Sequence[ReadyCall]] | None = None
    """All waiting calls of a call's task group, also those that come later; None to look for them among
    `ready`."""


class Placement(NamedTuple):
    """A call given to an engine."""

    call_id: CallId
    engine_id: EngineId
    num_shared_tokens: int
    """Tokens of the prompt expected to be there already."""
    why: str


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. Each ready call is placed exactly once, or deferred: not in here."""

    placements: tuple[Placement, ...]


class Shared:
    """How many tokens of one call's prompt each engine has, or will have by what was placed so far.

    A beginning that very many engines hold, as a system prompt is, tells little of where to go. Its holders
    are not listed, only asked.
    """

    __slots__ = ("_listed", "_unlisted", "most")

    def __init__(self) -> None:
        self.most = 0
        """Tokens that the engine has that has most of it."""
        self._listed: dict[EngineId, int] = {}
        self._unlisted: list[tuple[Collection[EngineId], Collection[EngineId], int]] = []

    def note(self, holders: Collection[EngineId], planned: Collection[EngineId], num_tokens: int) -> None:
        """These engines hold so many tokens; longer beginnings come first."""
        self.most = max(self.most, num_tokens)
        if len(holders) + len(planned) > MANY_HOLDERS:
            self._unlisted.append((holders, planned, num_tokens))
            return
        for engine_id in (*holders, *planned):
            if engine_id not in self._listed:
                self._listed[engine_id] = num_tokens

    def get(self, engine_id: EngineId) -> int:
        """Tokens that an engine has of it."""
        most = self._listed.get(engine_id, 0)
        for holders, planned, num_tokens in self._unlisted:
            if num_tokens <= most:
                break
            if engine_id in holders or engine_id in planned:
                return num_tokens
        return most

    @property
    def listed(self) -> Mapping[EngineId, int]:
        """The engines that hold what few hold, and how much of that, the longest beginning first."""
        return self._listed

    @property
    def is_wide(self) -> bool:
        """Whether engines that are not listed hold some of it."""
        return bool(self._unlisted)


class Round:
    """The state of a round in progress: the snapshot, and what was placed so far in it.

    It costs what it looks at, not what there is; one that places a single call copies nothing.
    """

    def __init__(self, snapshot: Snapshot, *, latency_target_s: float | None = None) -> None:
        """With a target, rooms are to be those of calls that stay within it."""
        self.snapshot = snapshot
        self.index = snapshot.index
        engines = snapshot.engines
        if isinstance(engines, Roster) and latency_target_s in (None, engines.latency_target_s):
            self._roster = engines
        else:
            target_s = math.inf if latency_target_s is None else latency_target_s
            self._roster = Roster(engines, latency_target_s=target_s)
        self._standing: dict[str, Standing] = {}
        self._own: set[str] = set()
        """Models whose standing is the round's own, to be changed."""
        self._moved: dict[EngineId, EngineState] = {}
        """Engines on which something was placed that their standing does not tell yet."""
        self._reserved: dict[str, int] = {}
        """How many engines of a model are kept that their standing does not tell of yet; placed before them
        is what `_moved` has."""
        self._planned: dict[PrefixKey, dict[EngineId, None]] = {}
        self.placements: list[Placement] = []

    @property
    def models(self) -> Collection[str]:
        """What the engines serve."""
        return self._roster.models

    @property
    def num_places(self) -> int:
        """Calls that all engines could take before the round, memory aside."""
        return self._roster.num_places

    def free_at_most(self, model: str, *, small: bool) -> float:
        """At least as much memory as any engine has free that has a place for a call: not all that was placed
        or reserved is taken off.
        """
        standing = self._standing.get(model) or self._roster.standing(model)
        return -math.inf if standing is None else standing.free_for[small].most

    def standing(self, model: str) -> Standing | None:
        """The engines of a model in their orders, as they are now; None when there are none. What is asked
        for before something is placed or reserved does not tell of it.
        """
        while self._moved:
            state = self._moved.popitem()[1]
            self._to_change(state.model).put(state)
        if self._reserved:
            self._take_reserved()
        found = self._standing.get(model)
        if found is None:
            found = self._roster.standing(model)
            if found is not None:
                self._standing[model] = found
        return found

    def holders(
        self, standing: Standing, shared: Shared, needed: int, *, small: bool
    ) -> Iterator[tuple[EngineState, int]]:
        """Engines that hold some of a prompt, and how much; of very many only some that get to it soonest.
        They have room for a call that needs so many tokens beside what is there, and may want a small batch.
        """
        free, listed, is_wide = standing.free_for[small].of, shared.listed, shared.is_wide
        for engine_id, num_tokens in listed.items():
            free_tokens = free.get(engine_id)
            if free_tokens is not None:
                held = shared.get(engine_id) if is_wide else num_tokens
                if needed - held <= free_tokens:
                    yield standing[engine_id], held
        if is_wide:
            for state in standing.first(MANY_HOLDERS):
                engine_id = state.engine_id
                num_tokens = shared.get(engine_id)
                if not num_tokens or engine_id in listed:
                    continue
                if needed - num_tokens <= free.get(engine_id, -math.inf):
                    yield state, num_tokens

    def held_keys(self, call: ReadyCall) -> tuple[PrefixKey, ...]:
        """The prefixes of a call that some engine holds, or will hold by this round."""
        return tuple([key for key in call.keys if self.index.holds(key) or key in self._planned])

    def most_shared(self, call: ReadyCall) -> int:
        """Tokens of a call's longest prefix that some engine holds, or will hold by this round."""
        held, planned, boundary = self.index.held_anywhere, self._planned, 0
        for key in reversed(call.keys):
            boundary -= 1
            if key in held or key in planned:
                return call.lengths[boundary]
        return 0

    def shared_tokens(self, call: ReadyCall) -> Shared:
        """For each engine how many tokens it holds, or by this round will hold, of a prefix of the call."""
        shared = Shared()
        for key, length in zip(reversed(call.keys), reversed(call.lengths), strict=True):
            holders, planned = self.index.engines_with(key), self._planned.get(key, {})
            if holders or planned:
                shared.note(holders, planned, length)
        return shared

    def place(self, call: ReadyCall, engine: EngineState, shared: int, why: str) -> None:
        """Decide for one call, and let later calls of the round see it. The engine is as `standing` has it
        now.
        """
        engine_id = engine.engine_id
        state = self._moved.get(engine_id)
        if state is None:
            state = self._moved[engine_id] = engine.copy()
        to_fill = call.num_prompt_tokens - shared
        state.num_calls += 1
        state.num_latency_calls += call.wants_small_batches
        state.num_tokens += to_fill + call.num_output_tokens
        state.num_unfilled_tokens += to_fill
        for key in call.keys:
            self._planned.setdefault(key, {})[engine_id] = None
        self.placements.append(Placement(call.call_id, engine_id, shared, why))

    def reserve(self, model: str) -> None:
        """Keep the emptiest engine for what comes first in a later round: it has no more room in this one."""
        if model in self._roster.models:
            self._reserved[model] = self._reserved.get(model, 0) + 1

    def schedule(self) -> Schedule:
        """What was decided."""
        return Schedule(placements=tuple(self.placements))

    def _take_reserved(self) -> None:
        # Put off until engines are looked at again: a round that only refuses changes no orders.
        for model, count in self._reserved.items():
            standing = self._to_change(model)
            for engine in list(islice(standing.emptiest(), count)):
                standing.remove(engine.engine_id)
        self._reserved.clear()

    def _to_change(self, model: str) -> Standing:
        found = self._standing.get(model)
        if found is None or model not in self._own:
            found = self._standing[model] = (found or self._roster.of(model)).copy()
            self._own.add(model)
        return found


def least_loaded(engines: Iterable[EngineState]) -> EngineState:
    """The engine with the fewest calls; of equals the first."""
    return min(engines, key=lambda engine: engine.num_calls)
