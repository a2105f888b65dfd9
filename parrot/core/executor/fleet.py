"""The engines: started, watched, started again when lost; and which contexts live on them."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from parrot.core.cost_model import PaceEstimate, SharedPace, Work
from parrot.core.executor.bells import Bells
from parrot.core.prefixes import PrefixIndex
from parrot.core.prompts import Model
from parrot.core.roster import EngineState, Roster
from parrot.core.scheduler import ReadyCall
from parrot.core.service_config import ServiceConfig
from parrot.errors import ConfigError, EngineError, ParrotError
from parrot.ports.clock import Clock
from parrot.ports.engine import Engine, EngineInfo, EngineLoad, Evicted, LoadChanged, Lost, StartEngine
from parrot.types.ids import ContextId, EngineId, PrefixKey

logger = logging.getLogger(__name__)

EngineStatus = Literal["up", "starting", "lost"]
OnProgress = Callable[[EngineId, str, float | None], None]


@dataclass(slots=True, kw_only=True)
class Share:
    """What one call takes of an engine while it runs there."""

    num_own_tokens: int
    """What it holds behind the prefixes, half of its output, for that grows."""
    keys: tuple[PrefixKey, ...]
    """Of the prefixes that it holds, alone or with others."""
    lengths: tuple[int, ...]
    num_unfilled_tokens: int
    latency: bool
    given_back: bool = False

    @classmethod
    def of(cls, call: ReadyCall, num_shared_tokens: int) -> "Share":
        """The share of a call of whose prompt so much is there already."""
        num_in_prefixes = call.lengths[-1] if call.lengths else 0
        return cls(
            num_own_tokens=call.num_prompt_tokens - num_in_prefixes + int(0.5 * call.num_output_tokens),
            keys=call.keys,
            lengths=call.lengths,
            num_unfilled_tokens=max(0, call.num_prompt_tokens - num_shared_tokens),
            latency=call.wants_small_batches,
        )


@dataclass(slots=True, kw_only=True)
class Member:
    """One engine of the fleet, through all its restarts."""

    engine_id: EngineId
    start: StartEngine
    status: EngineStatus = "starting"
    engine: Engine | None = None
    info: EngineInfo | None = None
    load: EngineLoad = field(default_factory=EngineLoad)
    failure: ParrotError | None = None
    num_starts: int = 0
    num_calls: int = 0
    """Calls placed on it that have not ended."""
    num_latency_calls: int = 0
    """Of these, the ones that want small batches."""
    num_tokens: int = 0
    """Tokens that its calls will hold, shared prefixes counted once, about."""
    num_unfilled_tokens: int = 0
    """Prompt tokens of its calls that are still to be computed, about."""
    pace: PaceEstimate = field(default_factory=PaceEstimate)
    told_at_s: float = 0.0
    """Service clock: when it last told its load."""
    next_context: int = 0
    in_use: dict[PrefixKey, list[int]] = field(default_factory=dict)
    """Prefixes that its calls hold: how many calls, and how many tokens each adds to shorter ones. One in the
    cache can be evicted until a call is placed behind it."""
    has_suspect: bool = False
    """A call under suspicion is on it; the next may come when that one is cleared."""
    touched: dict[EngineId, "Member"] = field(default_factory=dict)
    """Members that changed since the scheduler looked, among them this one when it does."""

    def touch(self) -> None:
        """Something changed that the scheduler looks at."""
        self.touched[self.engine_id] = self

    def take(self, share: Share) -> None:
        """A call is placed on it."""
        self.num_calls += 1
        self.num_latency_calls += share.latency
        self.num_tokens += share.num_own_tokens + self._hold(share)
        self.num_unfilled_tokens += share.num_unfilled_tokens
        self.touch()

    def filled(self, share: Share) -> None:
        """A call's prompt is computed."""
        if share.num_unfilled_tokens:
            self.num_unfilled_tokens -= share.num_unfilled_tokens
            share.num_unfilled_tokens = 0
            self.touch()

    def give_back(self, share: Share) -> None:
        """A call has ended on it. Nothing happens when that was said before."""
        if share.given_back:
            return
        share.given_back = True
        self.filled(share)
        self.num_calls -= 1
        self.num_latency_calls -= share.latency
        self.num_tokens -= share.num_own_tokens + self._let_go(share)
        self.touch()

    def _hold(self, share: Share) -> int:
        """A call holds its prefixes; gives the tokens of those that no other did."""
        in_use, num_new, before = self.in_use, 0, 0
        for key, length in zip(share.keys, share.lengths, strict=True):
            held = in_use.get(key)
            if held is None:
                in_use[key] = [1, length - before]
                num_new += length - before
            else:
                held[0] += 1
            before = length
        return num_new

    def _let_go(self, share: Share) -> int:
        """The other way round."""
        in_use, num_old = self.in_use, 0
        for key in share.keys:
            held = in_use[key]
            held[0] -= 1
            if not held[0]:
                num_old += held[1]
                del in_use[key]
        return num_old

    def tell(self, load: EngineLoad, now_s: float) -> bool:
        """It told its load; from two in a row between which it worked all the time, its pace is learnt.

        Gives whether the pace of all engines like it is another one now.
        """
        before, info = self.load, self.info
        told_at_s, self.load, self.told_at_s = self.told_at_s, load, now_s
        if info is None or not (before.num_running and load.num_running):
            return False
        pace = self.pace.pace
        moved = self.pace.observe(
            Work(
                busy_s=now_s - told_at_s,
                num_steps=load.num_steps - before.num_steps,
                num_prefilled_tokens=load.num_prefilled_tokens - before.num_prefilled_tokens,
                num_decoded_tokens=load.num_decoded_tokens - before.num_decoded_tokens,
                num_kv_tokens=(before.num_owned_blocks + load.num_owned_blocks) / 2 * info.block_tokens,
            )
        )
        if self.pace.pace != pace:
            self.touch()
        return moved

    def new_context(self) -> ContextId:
        """A context number that this engine has not seen."""
        self.next_context += 1
        return ContextId(self.next_context)


class Fleet:
    """All engines of the service."""

    def __init__(
        self,
        engines: Mapping[EngineId, StartEngine],
        *,
        config: ServiceConfig,
        clock: Clock,
        on_progress: OnProgress | None,
    ) -> None:
        self._touched: dict[EngineId, Member] = {}
        self._paces: dict[tuple[str, ...], SharedPace] = {}
        """By what makes engines equally fast: what they have learnt together."""
        self.members = {
            engine_id: Member(engine_id=engine_id, start=start, touched=self._touched)
            for engine_id, start in engines.items()
        }
        self._numbers = {engine_id: number for number, engine_id in enumerate(self.members)}
        self._roster = Roster(latency_target_s=config.latency_target_s)
        self._capacities: dict[EngineId, int] = {}
        self.kv_capacity_tokens = 0
        """What the engines can hold that take calls, when the roster was last asked for."""
        self.index = PrefixIndex()
        self.models: dict[str, Model] = {}
        """Every model that an engine has served since the service began; it stays when the engine is lost."""
        self.wake_scheduler = asyncio.Event()
        """Set when a round may find something to do: a call became ready, an engine came up or went."""
        self._config = config
        self._clock = clock
        self._on_progress = on_progress
        self._closing = False
        self._bells = Bells()

    def roster(self) -> Roster:
        """The engines that take calls now, as they are now; valid until the next question."""
        while self._touched:
            engine_id, member = self._touched.popitem()
            info = member.info
            if member.status != "up" or info is None:
                self._roster.drop(engine_id)
                self.kv_capacity_tokens -= self._capacities.pop(engine_id, 0)
                continue
            state = EngineState(
                engine_id=engine_id,
                model=info.model,
                max_batch=info.max_batch,
                num_calls=member.num_calls,
                num_latency_calls=member.num_latency_calls,
                num_tokens=member.num_tokens,
                num_unfilled_tokens=member.num_unfilled_tokens,
                capacity_tokens=info.num_blocks * info.block_tokens,
                pace=member.pace.pace,
            )
            self._roster.put(state, self._numbers[engine_id])
            self.kv_capacity_tokens += state.capacity_tokens - self._capacities.get(engine_id, 0)
            self._capacities[engine_id] = state.capacity_tokens
        return self._roster

    def is_up(self, model: str) -> bool:
        """Whether an engine serves the model now."""
        return any(engine.model == model for engine in self.roster())

    async def supervise(self, member: Member) -> None:
        """Keep one engine running until cancelled; an engine whose settings are wrong is not tried again.

        One that comes up and is lost soon after, again and again, counts as one that does not come up: no
        calls are to be placed on it every moment.
        """
        delay_s = self._config.restart_delay_s
        while not self._closing:
            up_since_s: float | None = None
            try:
                await self._start(member)
                up_since_s = self._clock.now_s()
                await self._watch(member)
            except ConfigError as error:
                self._give_up(member, error)
                return
            except EngineError as error:
                self._mark_lost(member, error)
            if (
                up_since_s is not None
                and self._clock.now_s() - up_since_s >= self._config.max_restart_delay_s
            ):
                delay_s = self._config.restart_delay_s
            await self._clock.sleep(delay_s)
            delay_s = min(delay_s * 2, self._config.max_restart_delay_s)

    def note_lost(self, member: Member, engine: Engine) -> None:
        """A request learnt that an engine is gone, perhaps before its notice came: place nothing on it any
        more.
        """
        if member.engine is engine:
            member.status, member.engine = "lost", None
            member.touch()
            self.index.drop_engine(member.engine_id)

    async def close(self) -> None:
        """Stop every engine."""
        self._closing = True
        for member in self.members.values():
            engine, member.engine = member.engine, None
            member.status = "lost"
            member.touch()
            if engine is not None:
                await engine.close()

    async def wait_change(self) -> None:
        """Return when the next engine comes up, goes, or gives up."""
        await self._bells.wait("changed")

    def _note_change(self) -> None:
        self.wake_scheduler.set()
        self._bells.ring("changed")

    async def _start(self, member: Member) -> None:
        member.status = "starting"
        member.touch()
        member.num_starts += 1

        def progress(phase: str, fraction: float | None) -> None:
            if self._on_progress is not None:
                self._on_progress(member.engine_id, phase, fraction)

        engine = await member.start(progress)
        info = engine.info
        member.engine, member.info, member.load, member.failure = engine, info, engine.load(), None
        if not member.pace.num_reports:
            shared = self._paces.setdefault(_kind(info), SharedPace())
            member.pace = PaceEstimate(shared)
        self.models[info.model] = Model(
            name=info.model,
            model_hash=info.model_hash,
            context_tokens=min(info.context_tokens, info.num_blocks * info.block_tokens),
            tokenizer=engine.tokenizer,
        )
        member.status = "up"
        member.touch()
        self._note_change()

    async def _watch(self, member: Member) -> None:
        engine = member.engine
        if engine is None:
            return
        async for notice in engine.notices():
            match notice:
                case Evicted(context_ids=context_ids):
                    for context_id in context_ids:
                        self.index.drop(member.engine_id, context_id)
                case LoadChanged(load=load):
                    if member.tell(load, self._clock.now_s()):
                        self._tell_pace(member)
                    if member.has_suspect:
                        self.wake_scheduler.set()
                case Lost(reason=reason):
                    await engine.close()
                    raise EngineError(f"engine {member.engine_id} was lost: {reason}", code="engine_lost")

    def _tell_pace(self, member: Member) -> None:
        """All engines like this one have another pace now."""
        for other in self.members.values():
            if other.pace.shared is member.pace.shared:
                other.touch()

    def _mark_lost(self, member: Member, error: EngineError) -> None:
        logger.warning("engine %s: %s", member.engine_id, error.message)
        member.status, member.engine, member.failure = "lost", None, error
        member.touch()
        member.load = EngineLoad()
        self.index.drop_engine(member.engine_id)
        self._note_change()

    def _give_up(self, member: Member, error: ConfigError) -> None:
        logger.error("engine %s cannot be started: %s", member.engine_id, error.message)
        member.status, member.failure = "lost", error
        member.touch()
        self._note_change()


def _kind(info: EngineInfo) -> tuple[str, ...]:
    """What makes two engines equally fast, as far as they tell."""
    device = info.device.partition(":")[0]
    return (info.kind, info.model_hash, device, info.dtype, info.description)
