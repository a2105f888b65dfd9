"""Attempts that come to no token for too long are stopped, so that their calls can be tried elsewhere."""

from collections.abc import Iterable
from dataclasses import dataclass

from parrot.core.limits import Limits
from parrot.core.sessions import CallRecord, Session
from parrot.ports.clock import Clock
from parrot.types.ids import CallId


@dataclass(frozen=True, slots=True)
class _Seen:
    attempt: int
    num_tokens: int
    since_s: float
    """Service clock: when it was first seen to have come so far."""


class ProgressWatch:
    """What the running calls had come to when they were looked at."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._seen: dict[CallId, _Seen] = {}

    def look(self, calls: Iterable[tuple[Session, CallRecord]]) -> None:
        """Look at every call that runs, and stop the attempts that have stood still for too long. To be done
        every few seconds; a time-out is noticed by so much later.
        """
        now_s, seen = self._clock.now_s(), dict[CallId, _Seen]()
        for session, record in calls:
            if session.graph.calls[record.call_id].state != "running":
                continue
            num_tokens = sum(output.num_tokens for output in record.outputs.values())
            if record.first_token_at is None:
                num_tokens = 0
            before = self._seen.get(record.call_id)
            if before is None or (before.attempt, before.num_tokens) != (record.attempt, num_tokens):
                before = _Seen(record.attempt, num_tokens, now_s)
            seen[record.call_id] = before
            self._stop_if_overdue(record, now_s - before.since_s)
        self._seen = seen

    def _stop_if_overdue(self, record: CallRecord, still_s: float) -> None:
        limits = self._limits
        if record.first_token_at is None:
            limit_s, message = limits.first_token_timeout_s, "no token within {:g} s"
        else:
            limit_s, message = limits.next_token_timeout_s, "no further token for {:g} s"
        if still_s > limit_s and record.stop is not None:
            record.stop(message.format(limit_s))
