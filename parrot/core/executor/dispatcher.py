"""Runs every ready call: has it placed, drives it, tries again what was not its fault, spreads what was."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

from parrot.core.executor.fleet import Member, Share
from parrot.core.executor.outlook import look_ahead_from, look_ahead_of
from parrot.core.executor.preparing import Preparing, failure_of
from parrot.core.executor.runner import Attempt, Resolved
from parrot.core.executor.runtime import Runtime
from parrot.core.executor.streams import forget_live
from parrot.core.executor.suspects import Suspects
from parrot.core.executor.waiting import Ready, WaitingRoom
from parrot.core.graph import Spread
from parrot.core.policies import make_policy
from parrot.core.prompts import Model
from parrot.core.scheduler import Placement, ReadyCall, Snapshot
from parrot.core.sessions import CallRecord, Session
from parrot.errors import EngineError, ParrotError
from parrot.ports.engine import Engine
from parrot.types.events import (
    CallFinished,
    CallOutcome,
    CallPlaced,
    CallRetried,
    Event,
    Failure,
    VariableFailed,
    VariableReady,
)
from parrot.types.ids import CallId, SessionId, VariableId
from parrot.wire.errors import to_failure

MAX_ROUND = 1000
"""Ready calls that one scheduling round looks at, so that no round holds the event loop up for long."""
MAX_BAD_OUTPUTS = 2
"""Attempts that may end in `engine_bad_output`."""


class Dispatcher:
    """The executor's heart. `run` works until it is cancelled; everything else only leaves it something to
    do.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        config = runtime.config
        self._schedule = make_policy(config.policy, config.without)
        self._ready = WaitingRoom(
            fair=config.policy == "app-centric" and config.has("fairness"),
            turns=config.session_order == "turns",
            share=config.has("sharing"),
            group=config.has("groups"),
            admission=runtime.admission,
        )
        self._stale: dict[SessionId, Session] = {}
        """Sessions in which something changed that objectives follow from."""
        self._running: dict[CallId, asyncio.Task[None]] = {}
        self._again: dict[CallId, None] = {}
        """Running calls whose attempt has failed and that are to run again, when that has been counted."""
        self._suspects = Suspects()
        self.active: dict[CallId, tuple[Session, CallRecord]] = {}
        """Calls with all their inputs that have not ended, oldest first."""
        self._preparing = Preparing(runtime, active=self.active, fail=self._fail_one)
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_running(self) -> int:
        """Calls that an engine works on."""
        return len(self._running)

    async def run(self) -> None:
        """Schedule whenever something became ready or an engine came up."""
        wake = self._runtime.fleet.wake_scheduler
        async with asyncio.TaskGroup() as group:
            while True:
                await wake.wait()
                wake.clear()
                if self._preparing.prepare_some(group):
                    # The others are prepared after everything else that the event loop has to do.
                    asyncio.get_running_loop().call_soon(wake.set)
                else:
                    self._place_ready(group)

    async def wait_idle(self) -> None:
        """Return when no call runs."""
        await self._idle.wait()

    def make_ready(self, session: Session, call_ids: Iterable[CallId]) -> None:
        """These calls have all their inputs."""
        now = self._runtime.clock.wall_s()
        for call_id in call_ids:
            record = session.records[call_id]
            record.ready_at, record.leading = now, None
            self.active[call_id] = (session, record)
            self._preparing.add(session, record)

    def fail(
        self,
        session: Session,
        call_ids: Sequence[CallId],
        failure: Failure,
        *,
        outcome: CallOutcome = "failed",
    ) -> tuple[CallId, ...]:
        """End calls that have not ended, and everything that waits for them. Returns all calls that ended by
        this.
        """
        ended: list[CallId] = []
        # What waits in vain keeps the objective that it had.
        self._ready.refresh(session, now_s=self._runtime.clock.wall_s())
        for call_id in call_ids:
            if not session.graph.calls[call_id].ended:
                spread = session.graph.fail_call(
                    call_id, failure, state="cancelled" if outcome == "cancelled" else "failed"
                )
                self.spread(session, spread, own=failure, outcome=outcome)
                ended.extend(spread.calls)
        return tuple(ended)

    def _fail_one(self, session: Session, record: CallRecord, failure: Failure) -> None:
        self.fail(session, [record.call_id], failure)

    def fail_pending(
        self,
        session: Session,
        call_ids: Sequence[CallId],
        variable_ids: Iterable[VariableId],
        failure: Failure,
        *,
        outcome: CallOutcome = "failed",
    ) -> tuple[CallId, ...]:
        """End calls as `fail` does, then variables that are still pending, which are a client's to set: the
        session's lock is held. Returns all calls that ended by this.
        """
        ended = list(self.fail(session, call_ids, failure, outcome=outcome))
        for variable_id in variable_ids:
            if session.graph.variables[variable_id].state == "pending":
                spread = session.graph.fail(variable_id, failure)
                self.spread(session, spread, outcome=outcome)
                ended.extend(spread.calls)
        return tuple(dict.fromkeys(ended))

    def spread(
        self, session: Session, spread: Spread, *, own: Failure | None = None, outcome: CallOutcome = "failed"
    ) -> None:
        """Record what the graph says has failed, stop what runs of it."""
        now = self._runtime.clock.wall_s()
        events: list[Event] = []
        for variable_id, failure in spread.variables:
            producer = session.graph.variables[variable_id].producer
            attempt = session.records[producer].attempt if producer else 0
            session.uncommitted.add(variable_id)
            session.analysis.resolved(variable_id)
            events.append(
                VariableFailed(
                    session_id=session.session_id,
                    variable_id=variable_id,
                    call_id=producer,
                    attempt=attempt,
                    failure=failure,
                )
            )
        for call_id in spread.calls:
            self._stop(call_id)
            record = session.records[call_id]
            record.failure = _first_failure(session, call_id) or own
            state = session.graph.calls[call_id].state
            events.append(
                self._finished(session, record, "cancelled" if state == "cancelled" else outcome, now)
            )
        self._runtime.journal.record(events)

    def forget(self, session: Session) -> None:
        """Stop everything of a session that is closing; nothing is recorded."""
        for call_id in session.graph.calls:
            self._stop(call_id)
            self.active.pop(call_id, None)
        self._stale.pop(session.session_id, None)
        self._ready.forget(session)

    def _stop(self, call_id: CallId) -> None:
        self._again.pop(call_id, None)
        self._preparing.remove(call_id)
        self._ready.remove(call_id)
        self._runtime.retention.unwant(call_id)
        self._runtime.ahead.leave(call_id)
        task = self._running.get(call_id)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    # ── placing ─────────────────────────────────────────────────────────────────────────────────────────────

    def touch(self, session: Session) -> None:
        """Something changed that objectives follow from: those of waiting calls are looked at in the next
        round.
        """
        self._stale[session.session_id] = session

    def _place_ready(self, group: asyncio.TaskGroup) -> None:
        now = self._runtime.clock.wall_s()
        while self._stale:
            self._ready.refresh(self._stale.popitem()[1], now_s=now)
        # What is prepared begins to wait when all that came with it is known too.
        for new in self._preparing.take():
            self._ready.add(new.session, new.record, new.model, new.prompt, now_s=now)
        if not self._ready:
            return
        num_started, num_refused = self._place_offered(group, self._offered())
        if num_refused and self._ready:
            # The places of those that may not join there are for others.
            num_started += self._place_offered(group, self._offered(num_free=0))[0]
        if num_started and self._ready:
            # What is left has a round of its own, after everything else that the event loop has to do.
            asyncio.get_running_loop().call_soon(self._runtime.fleet.wake_scheduler.set)

    def _place_offered(self, group: asyncio.TaskGroup, offered: Iterator[ReadyCall]) -> tuple[int, int]:
        """One round: how many calls it started, and how many may not join those where they were to be."""
        fleet = self._runtime.fleet
        snapshot = Snapshot(
            ready=islice(offered, MAX_ROUND),
            engines=fleet.roster(),
            index=fleet.index,
            latency_target_s=self._runtime.config.latency_target_s,
            group_of=self._ready.group_of,
        )
        num_started = num_refused = 0
        for placement in self._schedule(snapshot).placements:
            if not self._may_join(placement):
                num_refused += 1
            # A group is placed as a whole, also where its tenant may run a part of it only.
            elif self._ready.is_allowed(placement.call_id):
                self._start(group, self._ready.take(placement.call_id), placement)
                num_started += 1
        return num_started, num_refused

    def _offered(self, *, num_free: int | None = None) -> Iterator[ReadyCall]:
        """The waiting calls by their claim; of those under suspicion no more than can be placed, or than
        `num_free`.
        """
        active = self.active
        for call in self._ready.order():
            if active[call.call_id][1].num_crashes:
                if num_free is None:
                    num_free = self._suspects.num_free(self._runtime.fleet.members)
                if num_free <= 0:
                    continue
                num_free -= 1
            yield call

    def _may_join(self, placement: Placement) -> bool:
        return self._suspects.may_join(self.active[placement.call_id][1], placement.engine_id)

    def _start(self, group: asyncio.TaskGroup, entry: Ready, placement: Placement) -> None:
        session, record = entry.session, entry.record
        member, objective = self._runtime.fleet.members[placement.engine_id], entry.seen.objective
        now = self._runtime.clock.wall_s()
        record.attempt += 1
        record.engine_id, record.why, record.placed_at = placement.engine_id, placement.why, now
        record.num_output_tokens, record.first_token_at = 0, None
        self._suspects.enter(record, member)
        session.graph.start(record.call_id)
        self._runtime.retention.unwant(record.call_id)
        if not session.silent:
            self._runtime.journal.record(
                [
                    CallPlaced(
                        session_id=session.session_id,
                        call_id=record.call_id,
                        attempt=record.attempt,
                        engine_id=placement.engine_id,
                        why=placement.why,
                        num_shared_tokens=placement.num_shared_tokens,
                        wall_s=now,
                        ready_wall_s=record.ready_at,
                        objective=objective.objective,
                        task_group=objective.task_group,
                        why_objective=objective.why,
                    )
                ]
            )
        share = Share.of(entry.seen, placement.num_shared_tokens)
        member.take(share)
        look_ahead_of(self._runtime, session, record.call_id)
        self._idle.clear()
        task = group.create_task(
            self._drive(session, record, entry.model, member, share), name=record.call_id
        )
        self._running[record.call_id] = task
        task.add_done_callback(partial(self._ended, entry, member, share))

    def _ended(self, entry: Ready, member: Member, share: Share, task: asyncio.Task[None]) -> None:
        call_id, record = entry.record.call_id, entry.record
        member.give_back(share)
        self._runtime.ahead.look_again()
        self._ready.finish(
            call_id,
            entry.session.tenant_id,
            prompt_tokens=max(0, record.num_prompt_tokens - record.num_shared_tokens),
            output_tokens=record.num_output_tokens,
        )
        self._suspects.leave(record, member)
        if self._running.get(call_id) is task:
            del self._running[call_id]
        if call_id in self._again:
            del self._again[call_id]
            entry.session.graph.requeue(call_id)
            self.make_ready(entry.session, [call_id])
        if not self._running:
            self._idle.set()
        if self._ready:
            self._runtime.fleet.wake_scheduler.set()

    # ── driving ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _drive(
        self, session: Session, record: CallRecord, model: Model, member: Member, share: Share
    ) -> None:
        """Run one attempt to its end. What goes wrong in it stays in it."""
        engine = member.engine
        try:
            try:
                await self._attempt(session, record, model, member, engine, share)
            except EngineError as error:
                if engine is not None and error.code == "engine_lost":
                    self._runtime.fleet.note_lost(member, engine)
                self._engine_failed(session, record, error)
            else:
                if not session.graph.calls[record.call_id].ended:
                    self._finish(session, record, [])
        except Exception as error:  # noqa: BLE001 - the boundary between one call and all others
            self._fail_one(session, record, failure_of(record.call_id, error))

    async def _attempt(
        self,
        session: Session,
        record: CallRecord,
        model: Model,
        member: Member,
        engine: Engine | None,
        share: Share,
    ) -> None:
        if engine is None or record.prompt is None:
            message = f"engine {member.engine_id} went away before the call was sent"
            raise EngineError(message, code="engine_lost", data={"delivered": False})
        free = partial(member.give_back, share)
        attempt = Attempt(
            self._runtime,
            session=session,
            record=record,
            prompt=record.prompt,
            model=model,
            member=member,
            engine=engine,
            resolve=lambda resolved: self._resolve(session, record, model, resolved, free),
            on_first_token=lambda: member.filled(share),
        )
        await attempt.run()

    def _resolve(
        self,
        session: Session,
        record: CallRecord,
        model: Model,
        resolved: Resolved,
        free: Callable[[], None],
    ) -> None:
        """An output is there. With the last one the call is done: `free` gives back its place, so that who
        reads the output is not driven away from where it is.
        """
        ready = session.graph.resolve(
            resolved.variable_id,
            resolved.value,
            token_ids=resolved.token_ids,
            model_hash=None if resolved.token_ids is None else model.model_hash,
        )
        if ready is None:
            return
        session.attempts[resolved.variable_id] = record.attempt
        if resolved.raw is not None:
            session.raw_texts[resolved.variable_id] = resolved.raw
        events = self._value_events(session, record, resolved)
        call, variables = session.graph.calls[record.call_id], session.graph.variables
        if all(variables[output].state == "ready" for output in call.outputs.values()):
            # In one commit with the last value, so that whoever reads the value finds the call done.
            self._finish(session, record, events)
            free()
        else:
            self._runtime.journal.record(events)
        session.analysis.resolved(resolved.variable_id, num_generated=resolved.num_tokens)
        self.touch(session)
        if session.silent:
            forget_live(self._runtime, resolved.variable_id)
        self.make_ready(session, ready)
        look_ahead_from(self._runtime, session, session.graph.variables[resolved.variable_id])

    def _value_events(self, session: Session, record: CallRecord, resolved: Resolved) -> list[Event]:
        """What is told of a value; until that is committed its readers do not see it."""
        if session.silent:
            return []
        session.uncommitted.add(resolved.variable_id)
        return [
            VariableReady(
                session_id=session.session_id,
                variable_id=resolved.variable_id,
                call_id=record.call_id,
                attempt=record.attempt,
                value=resolved.value,
                num_tokens=resolved.num_tokens,
                raw=resolved.raw,
                finish_reason=record.outputs[resolved.variable_id].finish_reason,
            )
        ]

    def _engine_failed(self, session: Session, record: CallRecord, error: EngineError) -> None:
        """Try again what is not the call's fault; stop a call that brings engines down."""
        if session.graph.calls[record.call_id].ended:
            return
        limits = self._runtime.limits
        uncharged = record.num_uncharged
        crashed = self._suspects.charge(record, error)
        if record.num_uncharged == uncharged:
            record.num_failures += error.data.get("delivered", True) is True
        if error.code == "kv_exhausted":
            self.fail(session, [record.call_id], to_failure(error))
        elif record.num_crashes >= limits.max_crash_attempts:
            message = (
                f"the call was running when {record.num_crashes} engines went down; it is not tried again"
            )
            self.fail(session, [record.call_id], Failure(code="quarantined", message=message))
        elif record.num_failures >= _max_attempts(error, limits.max_attempts):
            message = f"failed on each of {record.num_failures} attempts, the last time with: {error.message}"
            data = {"last": error.code}
            self.fail(
                session, [record.call_id], Failure(code="attempts_exhausted", message=message, data=data)
            )
        else:
            self._runtime.counters["retries"] += 1
            self._runtime.journal.record(
                [
                    CallRetried(
                        session_id=session.session_id,
                        call_id=record.call_id,
                        attempt=record.attempt,
                        crashed_engine=crashed,
                        failure=to_failure(error),
                    )
                ]
            )
            self._again[record.call_id] = None

    def _finish(self, session: Session, record: CallRecord, events: list[Event]) -> None:
        """A call is done; `events` are told with that."""
        session.graph.finish(record.call_id)
        now = self._runtime.clock.wall_s()
        if session.silent:
            self._note_end(session, record, "done", now)
        else:
            self._runtime.journal.record([*events, self._finished(session, record, "done", now)])

    def _note_end(self, session: Session, record: CallRecord, outcome: CallOutcome, now: float) -> None:
        record.done_at = now
        record.prompt = record.leading = record.shape = None
        session.analysis.ended(record.call_id)
        self.touch(session)
        self.active.pop(record.call_id, None)
        counters = self._runtime.counters
        counters[f"calls_{outcome}"] += 1
        counters["prompt_tokens"] += record.num_prompt_tokens
        counters["shared_tokens"] += record.num_shared_tokens
        counters["output_tokens"] += record.num_output_tokens

    def _finished(
        self, session: Session, record: CallRecord, outcome: CallOutcome, now: float
    ) -> CallFinished:
        self._note_end(session, record, outcome, now)
        return CallFinished(
            session_id=session.session_id,
            call_id=record.call_id,
            attempt=record.attempt,
            outcome=outcome,
            num_prompt_tokens=record.num_prompt_tokens,
            num_shared_tokens=record.num_shared_tokens,
            num_output_tokens=record.num_output_tokens,
            wall_s=now,
            failure=record.failure,
            num_ahead_tokens=record.num_ahead_tokens,
            first_token_wall_s=record.first_token_at,
        )


def _first_failure(session: Session, call_id: CallId) -> Failure | None:
    """Why a call that waited has failed: what became of its first output."""
    for variable_id in session.graph.calls[call_id].outputs.values():
        failure = session.graph.variables[variable_id].failure
        if failure is not None:
            return failure
    return None


def _max_attempts(error: ParrotError, most: int) -> int:
    return min(most, MAX_BAD_OUTPUTS) if error.code == "engine_bad_output" else most
