"""What a client knows for sure of a service that is killed again and again, and whether it holds together.

* What was acknowledged resolves, as it must, and to one thing for all who look at any time.
* What was sent again is there once.
* What had ended is not run again.
* What was deleted stays deleted.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FINAL = frozenset({"ready", "failed"})
EITHER = "ready or failed"
"""How a variable may end whose call the engine fails again and again."""


@dataclass(slots=True)
class History:
    """The journal of one client and one long session, with short sessions beside it."""

    session_id: str = ""
    sent: list[str] = field(default_factory=list)
    """Applications that were sent at least once."""
    accepted: dict[str, Any] = field(default_factory=dict)
    """The answer to each that was acknowledged."""
    expected: dict[str, str] = field(default_factory=dict)
    """How each variable of an application that was acknowledged must end."""
    values_set: dict[str, str] = field(default_factory=dict)
    """Input variables whose setting was acknowledged."""
    seen: dict[str, set[str]] = field(default_factory=dict)
    """Every final state of a variable that was ever read, as JSON text."""
    done: dict[str, int] = field(default_factory=dict)
    """Calls that were reported done, and in which attempt."""
    opened: dict[str, str] = field(default_factory=dict)
    """Idempotency key of a short session → its id."""
    deleted: list[str] = field(default_factory=list)
    """Short sessions whose deletion was acknowledged."""
    problems: list[str] = field(default_factory=list)
    """What no fault excuses."""
    counts: Counter[str] = field(default_factory=Counter)
    """How often what was done: requests, replays, refusals."""

    def note_accepted(self, key: str, answer: Mapping[str, Any], expected: Mapping[str, str]) -> None:
        """A submission was acknowledged."""
        before = self.accepted.setdefault(key, dict(answer))
        self.counts["replays"] += before is not answer and before == answer
        if before != answer:
            self.problems.append(f"{key} was answered in two ways")
        self.expected.update(expected)

    def note_opened(self, key: str, session_id: str) -> None:
        """A short session was opened, perhaps not for the first time."""
        if self.opened.setdefault(key, session_id) != session_id:
            self.problems.append(f"{key} opened two sessions")

    def note_read(self, view: Mapping[str, Any]) -> None:
        """A variable was read."""
        self.counts["reads"] += 1
        if view["state"] in FINAL:
            error = view.get("error")
            text = json.dumps([view["state"], view.get("value"), error and error["code"]])
            self.seen.setdefault(view["name"], set()).add(text)

    def note_graph(self, calls: Sequence[Mapping[str, Any]]) -> None:
        """The application graph was read."""
        for call in calls:
            if call["state"] == "done":
                attempt = call["attempt"]
                if self.done.setdefault(call["call_id"], attempt) != attempt:
                    self.problems.append(f"{call['call_id']} had ended and ran again")

    def verdict(self, graph: Mapping[str, Any], log: Sequence[tuple[str, Mapping[str, Any]]]) -> "Verdict":
        """Judge all of it by the application graph and the whole log at the end."""
        resolved = Counter(
            data["variable_id"] for name, data in log if name in ("variable_ready", "variable_failed")
        )
        two_states = [name for name, states in self.seen.items() if len(states) > 1]
        attempts = [call["attempt"] for call in graph["calls"]]
        return Verdict(
            problems=tuple(self.problems),
            num_acknowledged=len(self.expected),
            lost=tuple(sorted(set(self.expected) - set(self.seen))),
            wrong=tuple(self._wrong()),
            num_resolved=len(resolved),
            double=(*two_states, *(name for name, times in resolved.items() if times > 1)),
            run_again=tuple(_placed_after_end(log)),
            missing_applications=tuple(key for key in self.sent if key not in self.accepted),
            duplicate_calls=len(graph["calls"]) - sum(len(a["calls"]) for a in self.accepted.values()),
            num_sessions=len(self.opened),
            num_deleted=len(self.deleted),
            num_replays=self.counts["replays"],
            max_attempt=max(attempts, default=0),
            mean_attempt=sum(attempts) / max(1, len(attempts)),
            placed_wall_s=_placed(log),
        )

    def _wrong(self) -> list[str]:
        found = []
        for name, state in self.expected.items():
            for text in self.seen.get(name, ()):
                ended, value, _ = json.loads(text)
                if state not in (ended, EITHER):
                    found.append(f"{name}: {text[:200]}")
                elif self.values_set.get(name, value) != value:
                    found.append(f"{name} was set to something else")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a history. `faults` is empty when promises were kept."""

    problems: tuple[str, ...]
    num_acknowledged: int
    """Variables of applications that were acknowledged."""
    lost: tuple[str, ...]
    """Of these, the ones that were never seen resolved."""
    wrong: tuple[str, ...]
    """Variables that ended as they must not."""
    num_resolved: int
    double: tuple[str, ...]
    """Variables that were resolved twice, or seen in two final states."""
    run_again: tuple[str, ...]
    """Calls that were placed after their end."""
    missing_applications: tuple[str, ...]
    duplicate_calls: int
    num_sessions: int
    num_deleted: int
    num_replays: int
    """Submissions that were sent again after they had been acknowledged."""
    max_attempt: int
    mean_attempt: float
    placed_wall_s: Mapping[str, Sequence[float]]
    """When each call was given to an engine, each time that it was."""

    @property
    def mean_executions(self) -> float:
        """How often a call was given to an engine."""
        return sum(map(len, self.placed_wall_s.values())) / max(1, len(self.placed_wall_s))

    @property
    def max_executions(self) -> int:
        """The same of the call for which it was most."""
        return max(map(len, self.placed_wall_s.values()), default=0)

    def faults(self) -> tuple[str, ...]:
        """Everything that is wrong, in words; empty when nothing is."""
        return (
            *self.problems,
            *(f"{name} was acknowledged and is lost" for name in self.lost),
            *self.wrong,
            *(f"{name} was resolved twice" for name in self.double),
            *(f"{call_id} was run again" for call_id in self.run_again),
            *(f"{key} was never acknowledged" for key in self.missing_applications),
            *((f"{self.duplicate_calls} calls too many",) if self.duplicate_calls else ()),
        )


def _placed(log: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, list[float]]:
    placed: dict[str, list[float]] = {}
    for name, data in log:
        if name == "call_placed":
            placed.setdefault(data["call_id"], []).append(float(data["wall_s"]))
    return placed


def _placed_after_end(log: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    ended: set[str] = set()
    again: list[str] = []
    for name, data in log:
        if name == "call_finished":
            if data["call_id"] in ended:
                again.append(data["call_id"])
            ended.add(data["call_id"])
        elif name == "call_placed" and data["call_id"] in ended:
            again.append(data["call_id"])
    return again
