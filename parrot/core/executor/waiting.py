"""Calls that wait for an engine, in the order in which they have a claim to one."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from parrot.core.admission import Admission, Occupancy
from parrot.core.estimates import Work
from parrot.core.fairness import FairQueue, WaitingCall
from parrot.core.precedence import due_s
from parrot.core.prompts import Model, Prompt
from parrot.core.scheduler import ReadyCall
from parrot.core.sessions import CallRecord, Session
from parrot.types.ids import CallId, SessionId, TenantId
from parrot.types.objective import CallObjective

PRIORITIES_PER_S = 1000
"""Engines are told when a call is due as a whole number, lower first."""
MAX_SHARES = 4096
"""Applications that are known by their requests only, and whose counters are kept; the oldest go first."""
_LATENCY = CallObjective(objective="latency")


class Ready(Struct, frozen=True, kw_only=True):
    """A call that could run, as it is driven and as the scheduler sees it."""

    session: Session
    record: CallRecord
    model: Model
    prompt: Prompt
    seen: ReadyCall
    due_s: float | None
    """None without fairness."""


class WaitingRoom:
    """Ready calls that are not placed yet.

    With `fair`, tenants take turns by the tokens they were served, and so do a tenant's sessions with
    `turns`; among their calls that one is first which is due first (`precedence.py`), here and in the
    engines' queues. Without, all as they came.
    """

    def __init__(
        self,
        *,
        fair: bool,
        share: bool,
        turns: bool = False,
        group: bool = True,
        admission: Admission | None = None,
    ) -> None:
        """`admission` says how many calls of a tenant may run, and is told how many wait and run."""
        weight_of = _no_weight if admission is None else admission.weight_of
        self._fair = FairQueue(weight_of=weight_of, turns=turns) if fair else None
        self._share = share
        self._group = group
        self._ready: dict[CallId, Ready] = {}
        self._admission = admission
        self._occupancy = admission.occupancy if admission is not None else Occupancy()
        self._held: dict[CallId, int] = {}
        """About how many tokens each call that was placed holds on its engine."""
        self._shares: OrderedDict[SessionId, TenantId] = OrderedDict()
        """Shares of more than one session; the one that was used last is last."""
        self._groups: dict[tuple[str | None, str], dict[CallId, ReadyCall]] = {}
        """Calls by task group and model."""

    def __len__(self) -> int:
        return len(self._ready)

    def add(
        self, session: Session, record: CallRecord, model: Model, prompt: Prompt, *, now_s: float
    ) -> None:
        """A call has all its inputs and its prompt."""
        objective = record.objective = self._objective(session, record)
        work = session.analysis.work(record.call_id)
        seen = ReadyCall(
            call_id=record.call_id,
            model=model.name,
            keys=prompt.keys if self._share else (),
            lengths=prompt.lengths if self._share else (),
            num_prompt_tokens=prompt.num_tokens,
            num_output_tokens=work.output_tokens,
            objective=objective,
        )
        due = None
        if self._fair is not None:
            due = _due_s(session, record, bulk=objective.objective == "throughput", now_s=now_s)
        self._ready[record.call_id] = Ready(
            session=session, record=record, model=model, prompt=prompt, seen=seen, due_s=due
        )
        self._occupancy.enter(session.tenant_id)
        if objective.task_group is not None:
            self._groups.setdefault(_group(seen), {})[record.call_id] = seen
        if self._fair is not None and due is not None:
            record.priority = int(due * PRIORITIES_PER_S)
            self._fair.add(
                WaitingCall(
                    call_id=record.call_id,
                    tenant_id=session.tenant_id,
                    session_id=session.share,
                    expected=Work(prompt_tokens=prompt.num_tokens, output_tokens=work.output_tokens),
                    rank=(due,),
                )
            )

    def refresh(self, session: Session, *, now_s: float) -> None:
        """Objectives of a session's calls were deduced anew; those of calls that run stay noted as they were
        when they were placed.
        """
        for call_id in session.analysis.changes():
            if session.graph.calls[call_id].state in {"waiting", "ready"}:
                objective = session.analysis.objective(call_id)
                session.records[call_id].objective = objective and _in_group(session, objective)
            ready = self._ready.get(call_id)
            if ready is not None and self._has_changed(ready, now_s):
                self.remove(call_id)
                self.add(session, ready.record, ready.model, ready.prompt, now_s=now_s)

    def _objective(self, session: Session, record: CallRecord) -> CallObjective:
        """What is wanted of a call; where nothing is grouped, as if each were waited for by itself."""
        found = _in_group(session, session.analysis.objective(record.call_id) or _LATENCY)
        return found if self._group or found.task_group is None else replace(found, task_group=None)

    def _has_changed(self, ready: Ready, now_s: float) -> bool:
        """Whether a waiting call would be noted otherwise now than it was."""
        session, record, seen = ready.session, ready.record, ready.seen
        objective = self._objective(session, record)
        if objective != seen.objective:
            return True
        if session.analysis.work(record.call_id).output_tokens != seen.num_output_tokens:
            return True
        if ready.due_s is None:
            return False
        bulk = objective.objective == "throughput"
        return ready.due_s != _due_s(session, record, bulk=bulk, now_s=now_s)

    def order(self) -> Iterator[ReadyCall]:
        """The calls by their claim; the room must not change while this is read."""
        ready = self._ready
        calls = ready if self._fair is None else self._fair.order(self._allowance)
        return (ready[call_id].seen for call_id in calls)

    def is_allowed(self, call_id: CallId) -> bool:
        """Whether the call's tenant may have one more running."""
        allowance = self._allowance(self._ready[call_id].session.tenant_id)
        return allowance is None or allowance > 0

    def _allowance(self, tenant_id: TenantId) -> int | None:
        most = None if self._admission is None else self._admission.most_running(tenant_id)
        return None if most is None else max(0, most - self._occupancy.running[tenant_id])

    def group_of(self, call: ReadyCall) -> Sequence[ReadyCall]:
        """The calls of a waiting call's task group, in the order in which they came."""
        return tuple(self._groups[_group(call)].values())

    def take(self, call_id: CallId) -> Ready:
        """A call is placed."""
        if self._fair is not None:
            self._fair.admit(call_id)
        ready = self._ready.pop(call_id)
        self._occupancy.leave(ready.session.tenant_id)
        num_tokens = ready.seen.num_prompt_tokens + ready.seen.num_output_tokens
        self._held[call_id] = self._held.get(call_id, 0) + num_tokens
        self._occupancy.start(ready.session.tenant_id, num_tokens)
        self._leave_group(ready.seen)
        return ready

    def finish(self, call_id: CallId, tenant_id: TenantId, *, prompt_tokens: int, output_tokens: int) -> None:
        """An attempt at a placed call has ended, and was served so much; the next may have been placed."""
        self._occupancy.end(tenant_id, self._held.pop(call_id, 0))
        if self._fair is not None:
            self._fair.finish(call_id, Work(prompt_tokens=prompt_tokens, output_tokens=output_tokens))

    def remove(self, call_id: CallId) -> None:
        """A call waits no longer and was not placed."""
        ready = self._ready.pop(call_id, None)
        if ready is not None:
            self._occupancy.leave(ready.session.tenant_id)
            self._leave_group(ready.seen)
        if self._fair is not None:
            self._fair.remove(call_id)

    def forget(self, session: Session) -> None:
        """A session is closed, and none of its calls waits."""
        if self._fair is None:
            return
        if session.share == session.session_id:
            self._fair.forget(session.tenant_id, session.session_id)
            return
        self._shares[session.share] = session.tenant_id
        self._shares.move_to_end(session.share)
        while len(self._shares) > MAX_SHARES:
            share, tenant_id = self._shares.popitem(last=False)
            if not self._fair.waits(share):
                self._fair.forget(tenant_id, share)

    def _leave_group(self, call: ReadyCall) -> None:
        if call.objective.task_group is not None:
            group = self._groups[_group(call)]
            del group[call.call_id]
            if not group:
                del self._groups[_group(call)]


def _due_s(session: Session, record: CallRecord, *, bulk: bool, now_s: float) -> float:
    ready_at_s = now_s if record.ready_at is None else record.ready_at
    slack_s = session.analysis.slack_s(record.call_id, now_s=now_s)
    return due_s(
        ready_at_s=ready_at_s,
        submitted_at_s=min(record.submitted_at, ready_at_s, session.since_at or ready_at_s),
        remaining=session.analysis.remaining,
        bulk=bulk,
        start_by_s=None if slack_s is None else now_s + slack_s,
        urgency_s=session.part_of.urgency_s,
    )


def _in_group(session: Session, objective: CallObjective) -> CallObjective:
    """The objective of a call that its client says is wanted together with others, else as it is."""
    group = session.part_of.group
    if group is None or objective.task_group is not None:
        return objective
    why = f"{objective.why}; its client wants it together with others"
    return replace(objective, task_group=f"{session.share}/{group}", why=why)


def _no_weight(_: TenantId) -> float:
    return 1.0


def _group(call: ReadyCall) -> tuple[str | None, str]:
    return call.objective.task_group, call.model
