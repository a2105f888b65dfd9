"""One scheduling round: a snapshot in, a schedule out. Pure, so that it is served, simulated, tested and
explained alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parrot.core.prefixes import PrefixIndex
from parrot.types.ids import CallId, EngineId, PrefixKey


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """An engine that is up."""

    engine_id: EngineId
    model: str
    num_calls: int
    """Calls placed on it that have not ended."""
    max_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything a round may look at."""

    ready: Sequence[ReadyCall]
    """In order of arrival."""
    engines: Sequence[EngineState]
    index: PrefixIndex
    """Read only."""


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
    """What to do: each ready call is placed or deferred, exactly once."""

    placements: tuple[Placement, ...]
    deferred: tuple[CallId, ...]
    """No engine of the call's model is up."""


class Round:
    """The state of a round in progress: the snapshot, and what was placed so far in it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.index = snapshot.index
        self.by_model: dict[str, list[EngineState]] = {}
        for engine in snapshot.engines:
            self.by_model.setdefault(engine.model, []).append(engine)
        self.num_calls = {engine.engine_id: engine.num_calls for engine in snapshot.engines}
        self._planned: dict[PrefixKey, set[EngineId]] = {}

    def least_loaded(self, engines: Sequence[EngineState]) -> EngineState:
        """The engine with the fewest calls; of equals the first."""
        return min(engines, key=lambda engine: self.num_calls[engine.engine_id])

    def shared_tokens(self, call: ReadyCall) -> Mapping[EngineId, int]:
        """For each engine that holds, or by this round will hold, a prefix of the call: how many tokens of
        it.
        """
        found: dict[EngineId, int] = {}
        for key, length in zip(reversed(call.keys), reversed(call.lengths), strict=True):
            for engine_id in self.index.engines_with(key) | self._planned.get(key, set()):
                found.setdefault(engine_id, length)
        return found

    def place(self, call: ReadyCall, engine: EngineState, shared: int, why: str) -> Placement:
        """Decide for one call, and let later calls of the round see it."""
        self.num_calls[engine.engine_id] += 1
        for key in call.keys:
            self._planned.setdefault(key, set()).add(engine.engine_id)
        return Placement(call_id=call.call_id, engine_id=engine.engine_id, num_shared_tokens=shared, why=why)
