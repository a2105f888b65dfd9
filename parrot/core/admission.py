"""What each tenant may still ask for: rates, tokens a minute, waiting calls, streams.

Everything here is decided before work is done. A tenant's tokens are a bucket that fills at its rate:

    level  ────────╮ submission: the most it can cost is taken at once, also below zero
                   ╰╮        ╭─ a call ends: what it did not use is put back
    0      ─────────╰╮──────╭╯──────── from here up the next submission is taken
                     ╰──────╯

So one submission may be larger than a minute's share, as a map over a book is, and the rate holds all the
same. Waiting calls work alike: while fewer wait than may, a whole graph is taken; then nothing until it has
shrunk. A service without keys has one user, whom none of this holds back.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from parrot.core.limits import Limits
from parrot.errors import OverLimitError, ParrotError, StoreError, UnavailableError
from parrot.ports.clock import Clock
from parrot.ports.store import Appended, StoreUsage
from parrot.types.events import CallFinished, CallPlaced, SessionClosed
from parrot.types.ids import CallId, SessionId, TenantId

WARN_SHARE = 0.8
"""From this share of a limit on, the log says so."""
WARN_INTERVAL_S = 60.0
MINUTE_S = 60.0
RATE_WINDOW_S = 10.0
"""How far back it is looked to see how fast calls end."""
MAX_RETRY_AFTER_S = 60.0
DISK_RETRY_AFTER_S = 10.0
SMALL_DISK_SHARE = 0.05
"""Of a disk so small that `min_free_disk_bytes` would be much of it, only this is kept free."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantTerms:
    """What holds for one tenant instead of what holds for all."""

    weight: float = 1.0
    """Its share of the engines when several tenants want them, against the others' weights."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Names out of `TENANT_LIMITS`, and this tenant's numbers."""


@dataclass(slots=True, kw_only=True)
class Bucket:
    """So much at once, refilled at a rate. Its level may be below zero; it can be tried when above."""

    rate: float
    """Units a second."""
    burst: float
    """The most it holds."""
    level: float
    filled_at_s: float

    def wait_s(self, need: float, now_s: float) -> float:
        """Seconds until there is `need`; 0 when it is there. Infinite when nothing ever flows in."""
        self._fill(now_s)
        lacking = need - self.level
        if lacking <= 0:
            return 0.0
        return lacking / self.rate if self.rate > 0 else math.inf

    def take(self, amount: float, now_s: float) -> None:
        """Take out, also more than there is; a negative amount is put back."""
        self._fill(now_s)
        self.level = min(self.burst, self.level - amount)

    def adjust(self, *, rate: float, burst: float, now_s: float) -> None:
        """Another rate and size from now on."""
        self._fill(now_s)
        self.rate, self.burst, self.level = rate, burst, min(burst, self.level)

    def _fill(self, now_s: float) -> None:
        self.level = min(self.burst, self.level + self.rate * max(0.0, now_s - self.filled_at_s))
        self.filled_at_s = max(now_s, self.filled_at_s)


@dataclass(slots=True)
class Occupancy:
    """How many calls wait for an engine, and how many are on one."""

    waiting: Counter[TenantId] = field(default_factory=Counter)
    running: Counter[TenantId] = field(default_factory=Counter)
    num_waiting: int = 0
    kv_tokens: Counter[TenantId] = field(default_factory=Counter)
    """About what the calls on engines hold there."""

    def enter(self, tenant_id: TenantId) -> None:
        """A call begins to wait."""
        self.waiting[tenant_id] += 1
        self.num_waiting += 1

    def leave(self, tenant_id: TenantId) -> None:
        """A call waits no longer."""
        self.waiting[tenant_id] -= 1
        self.num_waiting -= 1
        if not self.waiting[tenant_id]:
            del self.waiting[tenant_id]

    def start(self, tenant_id: TenantId, num_tokens: int = 0) -> None:
        """A call is on an engine, and will hold so many tokens there."""
        self.running[tenant_id] += 1
        self.kv_tokens[tenant_id] += num_tokens

    def end(self, tenant_id: TenantId, num_tokens: int = 0) -> None:
        """It is there no longer."""
        self.running[tenant_id] -= 1
        self.kv_tokens[tenant_id] -= num_tokens
        if not self.running[tenant_id]:
            del self.running[tenant_id]
            del self.kv_tokens[tenant_id]

    def others_wait(self, tenant_id: TenantId) -> bool:
        """Whether calls of other tenants wait."""
        return self.num_waiting > self.waiting[tenant_id]


@dataclass(slots=True, kw_only=True)
class _Account:
    requests: Bucket
    tokens: Bucket
    num_streams: int = 0


@dataclass(slots=True, kw_only=True)
class _Reserved:
    """What the calls of one session may still cost, as it was taken."""

    tenant_id: TenantId
    tokens: dict[CallId, float] = field(default_factory=dict)
    placed: set[CallId] = field(default_factory=set)


class Admission:
    """Takes or refuses on behalf of each tenant. Made with `metered` off, it refuses nothing."""

    def __init__(
        self, limits: Limits, clock: Clock, kv_capacity_tokens: Callable[[], int] = lambda: 0
    ) -> None:
        """`kv_capacity_tokens` says how many tokens all engines together hold; 0 when that is not known."""
        self.occupancy = Occupancy()
        self.usage: StoreUsage | None = None
        """Of the store, as it was last asked; None when it was not."""
        self._limits = limits
        self._kv_capacity_tokens = kv_capacity_tokens
        self._clock = clock
        self._metered = False
        self._terms: Mapping[TenantId, TenantTerms] = {}
        self._own: dict[TenantId, Limits] = {}
        self._accounts: dict[TenantId, _Account] = {}
        self._reserved: dict[SessionId, _Reserved] = {}
        self._endings = Bucket(rate=0, burst=math.inf, level=0, filled_at_s=0)
        self._endings_at_s = 0.0
        self._warned_at_s: dict[tuple[TenantId, str], float] = {}

    def weight_of(self, tenant_id: TenantId) -> float:
        """A tenant's weight; 1 when its terms say nothing."""
        terms = self._terms.get(tenant_id)
        return 1.0 if terms is None else terms.weight

    def update(self, terms: Mapping[TenantId, TenantTerms], *, metered: bool) -> None:
        """Other terms from now on; what was taken stays taken."""
        self._terms, self._metered = dict(terms), metered
        self._own.clear()
        now_s = self._clock.now_s()
        for tenant_id, account in self._accounts.items():
            limits = self.limits_of(tenant_id)
            account.requests.adjust(
                rate=limits.requests_per_s, burst=max(1, limits.requests_burst), now_s=now_s
            )
            account.tokens.adjust(
                rate=limits.tokens_per_minute / MINUTE_S, burst=limits.tokens_per_minute, now_s=now_s
            )

    def limits_of(self, tenant_id: TenantId) -> Limits:
        """The limits that hold for one tenant."""
        own = self._own.get(tenant_id)
        if own is None:
            terms = self._terms.get(tenant_id)
            changed: dict[str, Any] = dict(terms.limits) if terms is not None else {}
            own = self._own[tenant_id] = replace(self._limits, **changed) if changed else self._limits
        return own

    def most_running(self, tenant_id: TenantId) -> int | None:
        """How many calls of a tenant may be on engines together; None when there is no such limit."""
        if not self._metered:
            return None
        limits, running = self.limits_of(tenant_id), self.occupancy.running[tenant_id]
        share = limits.max_kv_share * self._kv_capacity_tokens()
        if share and self.occupancy.kv_tokens[tenant_id] >= share and self.occupancy.others_wait(tenant_id):
            return running
        return limits.max_running_calls or None

    # ── before work ─────────────────────────────────────────────────────────────────────────────────────────

    def check_request(self, tenant_id: TenantId) -> None:
        """Count one request that asks for something to be made.

        Raises:
            OverLimitError: the tenant sends them faster than it may.
        """
        limits = self.limits_of(tenant_id)
        if not self._metered or not limits.requests_per_s:
            return
        bucket, now_s = self._account(tenant_id).requests, self._clock.now_s()
        wait_s = bucket.wait_s(1, now_s)
        if wait_s > 0:
            raise _over("requests_per_s", limits.requests_per_s, wait_s)
        bucket.take(1, now_s)

    def check_submission(self, tenant_id: TenantId) -> None:
        """See that calls of a tenant can be taken now.

        Raises:
            OverLimitError: too many of its calls wait, or its tokens are used up.
            UnavailableError: `overloaded`, too many calls of all tenants wait.
        """
        if not self._metered:
            return
        limits = self.limits_of(tenant_id)
        if limits.tokens_per_minute:
            wait_s = self._account(tenant_id).tokens.wait_s(1, self._clock.now_s())
            if wait_s > 0:
                raise _over("tokens_per_minute", limits.tokens_per_minute, wait_s)
        waiting, most = self.occupancy.waiting[tenant_id], limits.max_queued_calls
        if most:
            self._warn(tenant_id, "max_queued_calls", waiting, most)
            if waiting >= most:
                raise _over("max_queued_calls", most, self._drained_s(waiting - most + 1))
        most = limits.max_queued_calls_total
        if most and self.occupancy.num_waiting >= most:
            wait_s = self._drained_s(self.occupancy.num_waiting - most + 1)
            raise UnavailableError(
                f"{self.occupancy.num_waiting:,} calls wait for an engine; try again in {wait_s:.0f} s",
                code="overloaded",
                data={"retry_after_s": wait_s},
            )

    def check_storage(self, tenant_id: TenantId) -> None:
        """See that more of a tenant's can be stored; the disk is looked at without keys too.

        Raises:
            StoreError: `store_full`, there is too little room on the store's disk.
            OverLimitError: its sessions take as much as they may.
        """
        shortage = self.disk_shortage()
        if shortage is not None:
            raise shortage
        most = self.limits_of(tenant_id).max_stored_bytes
        if self.usage is None or not self._metered or not most:
            return
        used = self.usage.bytes_of.get(tenant_id, 0)
        self._warn(tenant_id, "max_stored_bytes", used, most)
        if used >= most:
            raise OverLimitError(
                f"your sessions take {used:,} bytes, limits.max_stored_bytes is {most:,}; what was closed "
                f"counts for {self._limits.retention_s:,.0f} s after its end",
                data={"limit": "max_stored_bytes", "retry_after_s": MAX_RETRY_AFTER_S},
            )

    def disk_shortage(self) -> StoreError | None:
        """What is said while the store's disk has too little room; None while it has enough."""
        usage, least = self.usage, float(self._limits.min_free_disk_bytes)
        if usage is None or usage.free_bytes is None or usage.total_bytes is None:
            return None
        least = min(least, SMALL_DISK_SHARE * usage.total_bytes)
        if usage.free_bytes >= least:
            return None
        return StoreError(
            f"the store's disk has {usage.free_bytes:,} bytes free; nothing is accepted below {least:,.0f}",
            code="store_full",
            data={"retry_after_s": DISK_RETRY_AFTER_S},
        )

    def check_sessions(self, tenant_id: TenantId, num_sessions: int) -> None:
        """See that a tenant that has `num_sessions` open may open one more; this holds without keys too.

        Raises:
            OverLimitError: it may not.
        """
        most = self.limits_of(tenant_id).max_sessions
        self._warn(tenant_id, "max_sessions", num_sessions, most)
        if num_sessions >= most:
            raise OverLimitError(
                f"{most} sessions are open; delete one that is done",
                data={"limit": "max_sessions", "retry_after_s": 10},
            )

    @contextmanager
    def streaming(self, tenant_id: TenantId) -> Iterator[None]:
        """Count one stream while it lasts.

        Raises:
            OverLimitError: the tenant has as many as it may have.
        """
        account, most = self._account(tenant_id), self.limits_of(tenant_id).max_streams
        if self._metered and most:
            self._warn(tenant_id, "max_streams", account.num_streams, most)
            if account.num_streams >= most:
                raise _over("max_streams", most, 1.0)
        account.num_streams += 1
        try:
            yield
        finally:
            account.num_streams -= 1

    # ── tokens: taken before, settled after ─────────────────────────────────────────────────────────────────

    def reserve(self, tenant_id: TenantId, session_id: SessionId, tokens: Mapping[CallId, float]) -> None:
        """Take the most that these calls can cost, in prompt and output tokens."""
        if not self._metered or not self.limits_of(tenant_id).tokens_per_minute:
            return
        reserved = self._reserved.setdefault(session_id, _Reserved(tenant_id=tenant_id))
        reserved.tokens.update(tokens)
        self._account(tenant_id).tokens.take(sum(tokens.values()), self._clock.now_s())

    def release(self, session_id: SessionId, tokens: Mapping[CallId, float]) -> None:
        """Put back what was taken for calls that were not accepted after all."""
        for call_id in tokens:
            self._settle(session_id, call_id, used=0.0)

    def see(self, appended: Appended) -> None:
        """Settle what ended: a call costs the prompt tokens computed for it, shared ones left out, and its
        output.
        """
        event = appended.event
        match event:
            case CallFinished():
                self._count_ending()
                used = event.num_prompt_tokens - event.num_shared_tokens + event.num_output_tokens
                placed = event.attempt > 0
                self._settle(event.session_id, event.call_id, used=max(0, used) if placed else 0)
            case CallPlaced():
                reserved = self._reserved.get(event.session_id)
                if reserved is not None:
                    reserved.placed.add(event.call_id)
            case SessionClosed():
                reserved = self._reserved.get(event.session_id)
                for call_id, tokens in list(reserved.tokens.items()) if reserved is not None else ():
                    # What was running has cost something that nobody told: all that it could.
                    was_placed = reserved is not None and call_id in reserved.placed
                    self._settle(event.session_id, call_id, used=tokens if was_placed else 0)
            case _:
                return

    def _settle(self, session_id: SessionId, call_id: CallId, *, used: float) -> None:
        reserved = self._reserved.get(session_id)
        taken = reserved.tokens.pop(call_id, None) if reserved is not None else None
        if reserved is None or taken is None:
            return
        reserved.placed.discard(call_id)
        self._account(reserved.tenant_id).tokens.take(used - taken, self._clock.now_s())
        if not reserved.tokens:
            del self._reserved[session_id]

    # ── parts ───────────────────────────────────────────────────────────────────────────────────────────────

    def _account(self, tenant_id: TenantId) -> _Account:
        account = self._accounts.get(tenant_id)
        if account is None:
            limits, now_s = self.limits_of(tenant_id), self._clock.now_s()
            burst, per_minute = max(1, limits.requests_burst), limits.tokens_per_minute
            account = self._accounts[tenant_id] = _Account(
                requests=Bucket(rate=limits.requests_per_s, burst=burst, level=burst, filled_at_s=now_s),
                tokens=Bucket(
                    rate=per_minute / MINUTE_S, burst=per_minute, level=per_minute, filled_at_s=now_s
                ),
            )
        return account

    def _count_ending(self) -> None:
        """The level is the number of calls that ended lately, each counted less the longer ago."""
        now_s = self._clock.now_s()
        age_s = now_s - self._endings_at_s
        self._endings.level = self._endings.level * math.exp(-age_s / RATE_WINDOW_S) + 1
        self._endings_at_s = now_s

    def _drained_s(self, num_calls: int) -> float:
        """About how long it takes until so many more calls have ended."""
        age_s = self._clock.now_s() - self._endings_at_s
        per_s = self._endings.level * math.exp(-age_s / RATE_WINDOW_S) / RATE_WINDOW_S
        return min(MAX_RETRY_AFTER_S, max(1.0, num_calls / per_s)) if per_s > 0 else MAX_RETRY_AFTER_S

    def _warn(self, tenant_id: TenantId, name: str, used: float, most: float) -> None:
        if used < WARN_SHARE * most:
            return
        now_s = self._clock.now_s()
        if now_s - self._warned_at_s.get((tenant_id, name), -math.inf) >= WARN_INTERVAL_S:
            self._warned_at_s[tenant_id, name] = now_s
            logger.warning("tenant %s uses %d of limits.%s = %d", tenant_id, used, name, most)


def _over(name: str, most: float, wait_s: float) -> ParrotError:
    wait_s = min(wait_s, 10 * MAX_RETRY_AFTER_S)
    return OverLimitError(
        f"limits.{name} = {most:,g} is used up; try again in {math.ceil(wait_s):,} s",
        data={"limit": name, "retry_after_s": wait_s},
    )
