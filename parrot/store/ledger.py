"""Which events of a batch go into the log: the store's two guarantees as one function over what is known."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from parrot.ports.store import Appended, AppendOutcome
from parrot.types.events import CallPlaced, Event, SessionOpened, VariableFailed, VariableReady
from parrot.types.ids import CallId, SessionId, VariableId


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What must be known of the log so far to append to it. `admit` keeps it up to date."""

    last_seqs: dict[SessionId, int] = field(default_factory=dict)
    """Number of the last event of every session."""
    attempts: dict[CallId, int] = field(default_factory=dict)
    """Latest attempt of every call that was placed."""
    resolved: set[VariableId] = field(default_factory=set)
    """Variables that have a value or have failed."""

    def admit(self, events: Sequence[Event]) -> AppendOutcome:
        """Number the events that go into the log; drop resolutions that are late.

        Raises:
            ValueError: an event's session was never opened, or is opened twice; nothing has changed then.
        """
        self._check_sessions(events)
        appended: list[Appended] = []
        dropped: list[Event] = []
        for event in events:
            if isinstance(event, VariableReady | VariableFailed):
                if self._is_late(event):
                    dropped.append(event)
                    continue
                self.resolved.add(event.variable_id)
            elif isinstance(event, CallPlaced):
                self.attempts[event.call_id] = max(event.attempt, self.attempts.get(event.call_id, 0))
            seq = self.last_seqs.get(event.session_id, 0) + 1
            self.last_seqs[event.session_id] = seq
            appended.append(Appended(seq=seq, event=event))
        return AppendOutcome(appended=tuple(appended), dropped=tuple(dropped))

    def _is_late(self, event: VariableReady | VariableFailed) -> bool:
        if event.variable_id in self.resolved:
            return True
        return event.call_id is not None and event.attempt < self.attempts.get(event.call_id, 0)

    def _check_sessions(self, events: Sequence[Event]) -> None:
        opened: set[SessionId] = set()
        for event in events:
            known = event.session_id in self.last_seqs or event.session_id in opened
            if isinstance(event, SessionOpened) == known:
                raise ValueError(f"session {event.session_id} is {'opened twice' if known else 'not open'}")
            opened.add(event.session_id)


def fenced_calls(events: Iterable[Event]) -> set[CallId]:
    """Calls whose latest attempt must be known to admit `events`."""
    return {
        event.call_id
        for event in events
        if isinstance(event, CallPlaced | VariableReady | VariableFailed) and event.call_id is not None
    }


def resolved_variables(events: Iterable[Event]) -> set[VariableId]:
    """Variables of which it must be known whether they are resolved to admit `events`."""
    return {event.variable_id for event in events if isinstance(event, VariableReady | VariableFailed)}
