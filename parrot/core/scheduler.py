"""One scheduling round: a snapshot in, a schedule out. Pure: served, simulated, tested and explained
alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from parrot.core.cost_model import EnginePace
from parrot.core.prefixes import PrefixIndex
from parrot.types.ids import CallId, EngineId, PrefixKey
from parrot.types.objective import CallObjective

DEFAULT_OBJECTIVE = CallObjective(objective="latency")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCall:
    """A call whose inputs are all there."""

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

    @property
    def wants_small_batches(self) -> bool:
        """Somebody waits for this very call, so it must not run in a batch that slows its tokens down."""
        return self.objective.batched_for == "latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """An engine that is up."""

    engine_id: EngineId
    model: str
    max_batch: int
    num_calls: int = 0
    """Calls placed on it that have not ended."""
    num_latency_calls: int = 0
    """Of these, the ones that want small batches."""
    num_tokens: int = 0
    """Tokens that its calls will hold at most, each shared prefix counted once."""
    num_unfilled_tokens: int = 0
    """Prompt tokens of its calls that are still to be computed, about."""
    capacity_tokens: int = 1 << 62
    pace: EnginePace = field(default_factory=EnginePace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything a round may look at."""

    ready: Iterable[ReadyCall]
    """In the order in which they have a claim to be placed. A round may stop reading when nothing has
    room."""
    engines: Sequence[EngineState]
    index: PrefixIndex
    """Read only."""
    latency_target_s: float = 0.1
    """A step with a latency-sensitive call in it should not take longer."""
    group_homes: Mapping[str, EngineId] = field(default_factory=dict)
    """Where calls of a task group were placed in earlier rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A call given to an engine."""

    call_id: CallId
    engine_id: EngineId
    num_shared_tokens: int
    """Tokens of the prompt expected to be there already."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What to do. Each ready call is placed exactly once, or deferred: not in here."""

    placements: tuple[Placement, ...]


@dataclass(slots=True)
class Seat:
    """One engine as a round goes on: its state, and what the round added to it."""

    state: EngineState
    num_calls: int = 0
    num_latency_calls: int = 0
    num_tokens: int = 0
    num_unfilled_tokens: int = 0
    reserved: bool = False
    """Kept for a latency-sensitive call that found no room: nothing else is placed on it in this round."""

    @classmethod
    def of(cls, state: EngineState) -> "Seat":
        """The engine before the round."""
        return cls(
            state=state,
            num_calls=state.num_calls,
            num_latency_calls=state.num_latency_calls,
            num_tokens=state.num_tokens,
            num_unfilled_tokens=state.num_unfilled_tokens,
        )

    def finish_s(self, call: ReadyCall, shared: int) -> float:
        """When the call would be done here, if all goes as the engine's pace has it."""
        pace = self.state.pace
        fill_s = pace.fill_s(self.num_unfilled_tokens + call.num_prompt_tokens - shared)
        return fill_s + call.num_output_tokens * pace.step_s(min(self.num_calls + 1, self.state.max_batch))

    def fits(self, call: ReadyCall, shared: int, batch: int) -> bool:
        """Whether a batch of at most `batch` calls has a place for it, and the memory; an empty engine has
        both.
        """
        if self.num_calls == 0:
            return True
        needed = call.num_prompt_tokens - shared + call.num_output_tokens
        return self.num_calls < batch and self.num_tokens + needed <= self.state.capacity_tokens


class Round:
    """The state of a round in progress: the snapshot, and what was placed so far in it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.index = snapshot.index
        self.by_model: dict[str, list[Seat]] = {}
        self.seats: dict[EngineId, Seat] = {}
        for engine in snapshot.engines:
            seat = self.seats[engine.engine_id] = Seat.of(engine)
            self.by_model.setdefault(engine.model, []).append(seat)
        self._planned: dict[PrefixKey, set[EngineId]] = {}
        self.placements: list[Placement] = []

    def shared_tokens(self, call: ReadyCall) -> Mapping[EngineId, int]:
        """For each engine that holds, or by this round will hold, a prefix of the call: how many tokens of
        it.
        """
        found: dict[EngineId, int] = {}
        for key, length in zip(reversed(call.keys), reversed(call.lengths), strict=True):
            for engine_id in self.index.engines_with(key):
                found.setdefault(engine_id, length)
            for engine_id in self._planned.get(key, ()):
                found.setdefault(engine_id, length)
        return found

    def place(self, call: ReadyCall, seat: Seat, shared: int, why: str) -> None:
        """Decide for one call, and let later calls of the round see it."""
        seat.num_calls += 1
        seat.num_latency_calls += call.wants_small_batches
        seat.num_tokens += call.num_prompt_tokens - shared + call.num_output_tokens
        seat.num_unfilled_tokens += call.num_prompt_tokens - shared
        engine_id = seat.state.engine_id
        for key in call.keys:
            self._planned.setdefault(key, set()).add(engine_id)
        self.placements.append(
            Placement(call_id=call.call_id, engine_id=engine_id, num_shared_tokens=shared, why=why)
        )

    def schedule(self) -> Schedule:
        """What was decided."""
        return Schedule(placements=tuple(self.placements))


def least_loaded(seats: Iterable[Seat]) -> Seat:
    """The engine with the fewest calls; of equals the first."""
    return min(seats, key=lambda seat: seat.num_calls)
