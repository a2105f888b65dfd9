"""Filling what is certain before it is needed: a call's prompt grows while its inputs are still being made.

    producer   ▓▓▓▓▓▓▓▓ prompt ▓▓▓▓▓▓▓▓  ░░░░ generates v ░░░░░░░░░
    consumer   ▓▓ constants ▓▓ ready inputs                            ← prefill ahead
                                            ░░░░ takes v's tokens ░░░  ← pipelined fill
                                                                     └─ generates as soon as v is there

Both work on prefixes, not on calls: what is filled is put into the prefix index under its key, once for all
calls that begin so, and becomes cache. A call that gets ready finds it there like any other prefix, and forks
from it; so nothing depends on this having happened. Fills are of the lowest priority, and are begun on an
engine with room only. What is filled for calls that have all been stopped is given up at once, unless others
want the same prefix by then.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter

from parrot.core.executor.fleet import Fleet, Member
from parrot.core.prefixes import Match, generated_key
from parrot.core.prompts import Leading, Model, TokenCache, write_leading
from parrot.core.roster import EngineState
from parrot.core.service_config import ServiceConfig
from parrot.core.sessions import CallRecord, FilledAhead, Session
from parrot.errors import CallError, EngineError, RequestError
from parrot.ports.clock import Clock
from parrot.ports.engine import ContextRef, Engine, FillRequest
from parrot.types.ids import CallId, ContextId, EngineId, PrefixKey, RequestId, VariableId

MIN_TOKENS = 32
"""Less than this is not filled ahead: the request would cost more than it saves."""
AWAY_TOKENS = 256
"""From so many on it is worth to fill them on an idle engine, away from where the next input is made."""
PIPE_TOKENS = 64
"""So many generated tokens are handed on at a time. Each time the KV before them is read again: of a long
context, sixteen at a time would take from the calls beside more than they save.
"""
PRIORITY = 1 << 52
"""Behind everything that somebody has asked for, whenever that is due."""
MANY_ENGINES = 64
"""So many are looked at for one with room."""
REMEMBERED = 4096
"""Contexts of which it is remembered that they were filled ahead, for `explain`."""

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class _Filling:
    """A prompt's beginning that is filled, from when that is decided until it is done."""

    member: Member
    leading: Leading
    call_ids: set[CallId]
    """Calls that it is filled for and that were not stopped."""
    task: asyncio.Task[object] | None = None
    """What waits for the engine to do it."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Pipe(_Filling):
    """A context that takes what stands before an output, then the output's tokens as they are generated."""

    variable_id: VariableId
    engine: Engine
    context_id: ContextId
    key: PrefixKey
    """Of the prefix that ends with the output."""
    length: int
    """Tokens that were handed to it, ancestors' included."""
    pending: list[int] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    begun: bool = False
    """It was not too late for it."""
    asked: bool = False
    """The engine knows the context."""
    led: bool = False
    """What stands before the output is filled."""
    closed: bool = False
    complete: bool = False
    failed: bool = False

    @property
    def came_to_nothing(self) -> bool:
        """Whether its output has ended, or its engine has, before it could begin."""
        return self.closed or self.member.engine is not self.engine


class Ahead:
    """Decides what to fill ahead, and does it. `run` works until it is cancelled."""

    def __init__(
        self,
        *,
        config: ServiceConfig,
        fleet: Fleet,
        tokens: TokenCache,
        clock: Clock,
        is_awaited: Callable[[PrefixKey], bool],
    ) -> None:
        self._config = config
        self._is_awaited = is_awaited
        """Whether a call that waits wants a prefix."""
        self._clock = clock
        self._fleet = fleet
        self._tokens = tokens
        self._jobs: asyncio.Queue[Coroutine[None, None, None]] = asyncio.Queue()
        self._pipes: dict[VariableId, list[_Pipe]] = {}
        self._filled: OrderedDict[tuple[EngineId, ContextId], FilledAhead] = OrderedDict()
        self._filling: dict[CallId, _Filling] = {}
        """Calls of whose prompts something is being filled, one thing at a time."""
        self._following: dict[CallId, list[_Pipe]] = {}
        """Calls whose prompts follow outputs; one that has ended may still be filled when the next begins."""
        self._abandoned: dict[_Filling, None] = {}
        """What goes on only because others want it than the calls that it was begun for."""
        self._num_requests = 0
        self.num_tokens = 0
        """Prompt tokens filled ahead so far."""
        self.num_piped_tokens = 0
        """Of these, tokens that were taken while they were generated."""
        self.num_faults = 0
        """Fills that failed by a fault of the service."""

    async def run(self) -> None:
        """Carry out what was decided."""
        async with asyncio.TaskGroup() as group:
            while True:
                job = await self._jobs.get()
                group.create_task(self._carry_out(job))

    async def _carry_out(self, job: Coroutine[None, None, None]) -> None:
        """The boundary between one fill and everything else: nobody asked for it, so nothing else fails with
        it.
        """
        try:
            await job
        except Exception:
            self.num_faults += 1
            logger.exception("filling ahead failed by a fault of the service")

    def close(self) -> None:
        """Let go of what was decided and not begun."""
        while not self._jobs.empty():
            self._jobs.get_nowait().close()

    # ── giving up ───────────────────────────────────────────────────────────────────────────────────────────

    def leave(self, call_id: CallId) -> None:
        """A call is stopped: what is filled for it alone is given up, and its memory with it."""
        filling, pipes = self._filling.get(call_id), self._following.pop(call_id, [])
        for left in pipes if filling is None else [filling, *pipes]:
            left.call_ids.discard(call_id)
            if not left.call_ids:
                self._abandoned[left] = None
        for pipe in pipes:
            if not pipe.call_ids:
                self._close(pipe)
        self.look_again()

    def look_again(self) -> None:
        """Calls have ended: give up what went on for them only."""
        if not self._abandoned:
            return
        for filling in [one for one in self._abandoned if not self._is_wanted(one)]:
            del self._abandoned[filling]
            if filling.task is not None:
                filling.task.cancel()

    def _is_wanted(self, filling: _Filling) -> bool:
        key = filling.leading.key
        return key in filling.member.in_use or self._is_awaited(key)

    @contextmanager
    def _can_be_given_up(self, filling: _Filling) -> Iterator[None]:
        filling.task = asyncio.current_task()
        try:
            yield
        finally:
            filling.task = None
            self._abandoned.pop(filling, None)

    # ── prefill ahead ───────────────────────────────────────────────────────────────────────────────────────

    def consider(self, session: Session, record: CallRecord) -> None:
        """A call waits for inputs: fill what stands before the first that is missing, if that is worth it.

        One fill at a time for a call. Inputs that end together would else make a fill each, every one in a
        step after the one before, and the call itself after all of them.
        """
        if record.call_id in self._filling:
            return
        model = self._fleet.models.get(record.model)
        if model is None or not (self._config.has("prefill-ahead") and self._config.has("sharing")):
            return
        leading = self._leading(session, record, model)
        if leading is None or len(leading.token_ids) < MIN_TOKENS:
            return
        member, num_missing = self._where(session, leading, model)
        if member is not None and member.engine is not None and num_missing >= MIN_TOKENS:
            filling = _Filling(member=member, leading=leading, call_ids={record.call_id})
            self._filling[record.call_id] = filling
            self._jobs.put_nowait(self._fill(session, record, filling))

    def _missing(self, member: Member, leading: Leading) -> int:
        """Tokens of a prompt's beginning that no context of the engine holds."""
        match = self._fleet.index.longest(member.engine_id, leading.keys)
        return len(leading.token_ids) - (match.ref.num_tokens if match else 0)

    def filled(self, engine_id: EngineId, context_id: ContextId) -> FilledAhead | None:
        """What of a context was filled ahead; None when nothing was."""
        return self._filled.get((engine_id, context_id))

    def _leading(self, session: Session, record: CallRecord, model: Model) -> Leading | None:
        if record.program is None:
            return None
        leading, variables = record.leading, session.graph.variables
        if leading is None or (leading.missing is not None and variables[leading.missing].state == "ready"):
            leading = record.leading = write_leading(
                record.program,
                model,
                variables.__getitem__,
                tenant_id=session.tenant_id,
                salt=self._config.salt,
                cache=self._tokens,
                so_far=leading,
            )
        return leading

    def _where(self, session: Session, leading: Leading, model: Model) -> tuple[Member | None, int]:
        """Where the call is to run: where its prefix is; else on an idle engine, if there is much to fill (on
        a busy one that would take from others what it gives); else where its next input is being made. And
        how many tokens of its prompt's beginning are missing there.
        """
        standing = self._fleet.roster().standing(model.name)
        if standing is None:
            return None, 0
        members = self._fleet.members
        beside = self._beside(session, leading)
        if beside is not None and beside in standing:
            num_missing = self._missing(members[beside], leading)
            if not self._is_held_elsewhere(leading, num_missing):
                if num_missing >= AWAY_TOKENS:
                    emptiest = members[next(standing.emptiest()).engine_id]
                    if emptiest.num_calls == 0 and _has_room(emptiest):
                        return emptiest, self._missing(emptiest, leading)
                return (members[beside] if _has_room(members[beside]) else None), num_missing
        index = self._fleet.index
        held = [index.engines_with(key) for key in leading.keys]
        likely: Iterator[EngineState]
        if sum(map(len, held)) > MANY_ENGINES:
            likely = (e for e in standing.emptiest() if any(e.engine_id in ids for ids in held))
        elif any(held):
            likely = iter(standing.in_order(dict.fromkeys(e for engine_ids in held for e in engine_ids)))
        else:
            likely = standing.emptiest()
        free = (member for e in islice(likely, MANY_ENGINES) if _has_room(member := members[e.engine_id]))
        missing = [(self._missing(member, leading), member.num_calls, member) for member in free]
        if not missing:
            return None, 0
        num_missing, _, chosen = min(missing, key=itemgetter(0, 1))
        return chosen, num_missing

    def _is_elsewhere(self, member: Member, leading: Leading) -> bool:
        """Whether another engine holds so much more of a prompt's beginning that the call will go there."""
        return self._is_held_elsewhere(leading, self._missing(member, leading))

    def _is_held_elsewhere(self, leading: Leading, num_missing: int) -> bool:
        """As `_is_elsewhere`, for an engine that so much is missing on."""
        here = len(leading.token_ids) - num_missing
        return self._fleet.index.is_held_beyond(leading.keys, leading.lengths, here + MIN_TOKENS)

    def _beside(self, session: Session, leading: Leading) -> EngineId | None:
        """The engine on which the input that comes next is being made."""
        producer = session.graph.variables[leading.missing].producer if leading.missing is not None else None
        if producer is None or session.graph.calls[producer].state != "running":
            return None
        return session.records[producer].engine_id

    async def fill_now(self, member: Member, leading: Leading) -> int:
        """Fill a prompt's beginning because somebody asked for it; how many tokens were computed for it."""
        if not self._config.has("sharing") or not self._missing(member, leading):
            return 0
        return await self._fill_missing(_Filling(member=member, leading=leading, call_ids=set()))

    async def _fill(self, session: Session, record: CallRecord, filling: _Filling) -> None:
        call, num_filled = session.graph.calls[record.call_id], 0
        try:
            is_wanted = bool(filling.call_ids) and call.state == "waiting"
            if is_wanted and self._missing(filling.member, filling.leading) >= MIN_TOKENS:
                num_filled = await self._fill_missing(filling)
        finally:
            del self._filling[record.call_id]
            self._abandoned.pop(filling, None)
        if num_filled and filling.call_ids and call.state == "waiting":
            self.consider(session, record)

    async def _fill_missing(self, filling: _Filling) -> int:
        member, leading, engine = filling.member, filling.leading, filling.member.engine
        if engine is None:
            return 0
        context_id, is_filled = member.new_context(), False
        match = self._note(member, context_id, leading)
        start = match.ref.num_tokens if match else 0
        request = self._request(context_id, leading.token_ids[start:], match.ref if match else None)
        try:
            with self._can_be_given_up(filling):
                result = await engine.fill(request)
            is_filled = True
        except (EngineError, CallError, RequestError) as error:
            logger.debug("nothing was filled ahead: %s", error.message)
            return 0
        finally:
            if is_filled:
                self._note_end(member, context_id)
            else:
                self._fleet.index.drop(member.engine_id, context_id)
            await _free(engine, context_id, retain=is_filled)
        self.num_tokens += result.num_prefilled
        return result.num_prefilled

    # ── pipelined fill ──────────────────────────────────────────────────────────────────────────────────────

    def begin(self, session: Session, variable_id: VariableId, member: Member, engine: Engine) -> None:
        """An output without transforms begins to be generated: its consumers' prompts follow, where it is
        next.
        """
        if not (self._config.has("pipelining") and self._config.has("sharing")) or member.info is None:
            return
        if variable_id in self._pipes:
            # It begins again in the same attempt, and had nothing yet.
            return
        model = self._fleet.models[member.info.model]
        seen: dict[PrefixKey, _Pipe] = {}
        for call in session.graph.consumers(variable_id):
            record = session.records[call.call_id]
            if call.state != "waiting" or record.model != model.name or not _has_room(member):
                continue
            leading = self._leading(session, record, model)
            if leading is None or leading.missing != variable_id or self._is_elsewhere(member, leading):
                continue
            key = generated_key(leading.key, variable_id)
            if key not in seen:
                seen[key] = self._open(variable_id, member, engine, leading, key)
            seen[key].call_ids.add(call.call_id)
            self._following.setdefault(call.call_id, []).append(seen[key])

    def _open(
        self, variable_id: VariableId, member: Member, engine: Engine, leading: Leading, key: PrefixKey
    ) -> _Pipe:
        pipe = _Pipe(
            variable_id=variable_id,
            member=member,
            engine=engine,
            context_id=member.new_context(),
            leading=leading,
            call_ids=set(),
            key=key,
            length=len(leading.token_ids),
        )
        self._pipes.setdefault(variable_id, []).append(pipe)
        self._jobs.put_nowait(self._pump(pipe))
        return pipe

    def _close(self, pipe: _Pipe) -> None:
        """Nobody follows any more: no further token of the output is handed on."""
        pipes = self._pipes.get(pipe.variable_id, [])
        if pipe in pipes:
            pipes.remove(pipe)
            if not pipes:
                del self._pipes[pipe.variable_id]
            pipe.closed = True
            pipe.wake.set()

    def feed(self, variable_id: VariableId, token_ids: Sequence[int]) -> None:
        """More of an output was generated."""
        for pipe in self._pipes.get(variable_id, ()):
            pipe.pending.extend(token_ids)
            pipe.length += len(token_ids)
            self.num_piped_tokens += len(token_ids)
            if len(pipe.pending) >= PIPE_TOKENS:
                pipe.wake.set()

    def end(self, variable_id: VariableId, *, exact: bool) -> None:
        """An output has ended. When its value is exactly its tokens, prompts that begin so can be forked from
        here.

        What was not handed on yet is left to the call that comes, which computes it in the step that its own
        tokens take anyway, in place of a step more before that; unless several calls come.
        """
        for pipe in self._pipes.pop(variable_id, ()):
            if len(pipe.call_ids) == 1:
                pipe.length -= len(pipe.pending)
                self.num_piped_tokens -= len(pipe.pending)
                pipe.pending.clear()
            will_be_there = pipe.asked or (pipe.begun and bool(pipe.pending))
            will_be_there = will_be_there and not pipe.failed and pipe.member.engine is pipe.engine
            pipe.closed, pipe.complete = True, exact and will_be_there
            if pipe.complete:
                ref = ContextRef(context_id=pipe.context_id, num_tokens=pipe.length)
                self._fleet.index.add(pipe.member.engine_id, pipe.key, ref)
            pipe.wake.set()

    async def _pump(self, pipe: _Pipe) -> None:
        try:
            if not (pipe.came_to_nothing or self._is_elsewhere(pipe.member, pipe.leading)):
                await self._follow(pipe)
        finally:
            for call_id in pipe.call_ids:
                following = self._following[call_id]
                following.remove(pipe)
                if not following:
                    del self._following[call_id]
            self._abandoned.pop(pipe, None)

    async def _follow(self, pipe: _Pipe) -> None:
        match = self._note(pipe.member, pipe.context_id, pipe.leading)
        parent = match.ref if match else None
        pipe.pending[:0] = pipe.leading.token_ids[parent.num_tokens if parent else 0 :]
        pipe.begun = True
        pipe.wake.set()
        try:
            while not (pipe.closed and not pipe.pending):
                await pipe.wake.wait()
                pipe.wake.clear()
                if pipe.closed and not pipe.complete:
                    break
                if not (pipe.call_ids or self._is_wanted(pipe)):
                    pipe.failed = True
                    break
                token_ids, pipe.pending = tuple(pipe.pending), []
                if token_ids:
                    pipe.asked = True
                    with self._can_be_given_up(pipe):
                        result = await pipe.engine.fill(self._request(pipe.context_id, token_ids, parent))
                    self.num_tokens += result.num_prefilled
                    pipe.led = True
        except (EngineError, CallError, RequestError) as error:
            logger.debug("a prompt does not follow its input any more: %s", error.message)
            pipe.failed = True
        except asyncio.CancelledError:
            pipe.failed = True
            raise
        finally:
            self._note_end(pipe.member, pipe.context_id)
            # What stands before the output can be forked from, whatever became of the output.
            is_kept = pipe.led and not pipe.failed
            if not is_kept:
                self._fleet.index.drop(pipe.member.engine_id, pipe.context_id)
            await _free(pipe.engine, pipe.context_id, retain=is_kept)

    # ── parts ───────────────────────────────────────────────────────────────────────────────────────────────

    def _note(self, member: Member, context_id: ContextId, leading: Leading) -> Match | None:
        """Let others fork from a context where none could before, and remember from where on it was filled
        ahead. Gives what it is to fork from itself.

        Whoever calls this tells the engine of the context before anything else can run: else the engine would
        be asked to fork from what it does not know.
        """
        match = self._fleet.index.longest(member.engine_id, leading.keys)
        held = match.ref.num_tokens if match else 0
        for key, length in zip(leading.keys, leading.lengths, strict=True):
            if length > held:
                ref = ContextRef(context_id=context_id, num_tokens=length)
                self._fleet.index.add(member.engine_id, key, ref)
        first = 0
        if match is not None:
            before = self.filled(member.engine_id, match.ref.context_id)
            first = match.ref.num_tokens if before is None else min(before.first, match.ref.num_tokens)
        self._filled[member.engine_id, context_id] = FilledAhead(first=first, began_at=self._clock.wall_s())
        if len(self._filled) > REMEMBERED:
            self._filled.popitem(last=False)
        return match

    def _note_end(self, member: Member, context_id: ContextId) -> None:
        filled = self.filled(member.engine_id, context_id)
        if filled is not None:
            filled.ended_at = self._clock.wall_s()

    def _request(
        self, context_id: ContextId, token_ids: tuple[int, ...], parent: ContextRef | None
    ) -> FillRequest:
        self._num_requests += 1
        return FillRequest(
            request_id=RequestId(f"ahead.{self._num_requests}"),
            context_id=context_id,
            token_ids=token_ids,
            parent=parent,
            priority=PRIORITY,
        )


def _has_room(member: Member) -> bool:
    """Whether an engine has capacity to spare, by what it last told."""
    if member.info is None:
        return False
    busy = member.load.num_waiting > 0 or member.num_calls >= member.info.max_batch
    return not busy and member.load.num_owned_blocks * 2 < member.info.num_blocks


async def _free(engine: Engine, context_id: ContextId, *, retain: bool) -> None:
    try:
        await engine.free([context_id], retain=retain)
    except EngineError:
        # The engine is gone, and its memory with it.
        return
