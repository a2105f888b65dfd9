"""Which call brought an engine down: calls that were running on one are under suspicion, until cleared.

    an engine goes down ──► its calls are charged once ──► each runs again, one suspect to an engine
                                                             │                        │
                            it passes the place where it was ┘                        └ that goes down too:
                            lost, and is cleared; the next suspect may join             it is quarantined

An engine that was stopped or killed from outside charges nobody. Suspects run beside calls that are under no
suspicion, so that nothing has to wait for them.
"""

from collections.abc import Iterable

from parrot.core.executor.fleet import Member
from parrot.core.sessions import CallRecord
from parrot.errors import EngineError
from parrot.types.ids import EngineId

CLEARED_AFTER_TOKENS = 16
"""A suspect that has generated so many tokens more than when its engine went down did not bring it down.
They are more than a message from an engine holds, so that what was only on its way does not count."""
MAX_UNCHARGED = 8
"""Losses that are laid to others' charge, for one call. Then it is charged as any: what kills processes that
use much memory, from outside and without the kernel's knowledge, may have a call to thank for it."""


class Suspects:
    """The calls under suspicion that are on engines, one to an engine."""

    def __init__(self) -> None:
        self._seats: dict[EngineId, tuple[Member, CallRecord]] = {}

    def num_free(self, engine_ids: Iterable[EngineId]) -> int:
        """On how many of these engines a suspect may be placed."""
        return sum(not self._is_taken(engine_id) for engine_id in engine_ids)

    def may_join(self, record: CallRecord, engine_id: EngineId) -> bool:
        """Whether a call may be placed on an engine: a suspect may where no other is."""
        return not (record.num_crashes and self._is_taken(engine_id))

    def enter(self, record: CallRecord, member: Member) -> None:
        """A call is placed on an engine."""
        if record.num_crashes:
            self._seats[member.engine_id] = (member, record)
            member.has_suspect = True

    def leave(self, record: CallRecord, member: Member) -> None:
        """A call is no longer on it."""
        seat = self._seats.get(member.engine_id)
        if seat is not None and seat[1] is record:
            self._give_up(member)

    def charge(self, record: CallRecord, error: EngineError) -> bool:
        """An attempt failed: whether the call is charged with the loss of an engine."""
        if error.code != "engine_lost" or error.data.get("delivered", True) is not True:
            return False
        self._clear_if_past(record)
        if error.data.get("outside") is True and record.num_uncharged < MAX_UNCHARGED:
            record.num_uncharged += 1
            return False
        record.num_crashes += 1
        record.lost_after_tokens = _num_generated(record)
        return True

    def _is_taken(self, engine_id: EngineId) -> bool:
        seat = self._seats.get(engine_id)
        if seat is None:
            return False
        member, record = seat
        if self._clear_if_past(record):
            self._give_up(member)
            return False
        return True

    def _give_up(self, member: Member) -> None:
        del self._seats[member.engine_id]
        member.has_suspect = False

    def _clear_if_past(self, record: CallRecord) -> bool:
        lost_after = record.lost_after_tokens
        if lost_after is None or _num_generated(record) <= lost_after + CLEARED_AFTER_TOKENS:
            return False
        record.num_crashes, record.lost_after_tokens = 0, None
        return True


def _num_generated(record: CallRecord) -> int:
    """Tokens of a call's outputs so far, in this attempt and in those that completed an output."""
    return sum(output.num_tokens for output in record.outputs.values())
