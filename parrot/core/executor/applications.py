"""Applications of which only single requests are seen: what a client says that belongs together.

A client of another server's interface sends one request after the other, each with a prompt that is complete.
It may say whose they are, by a session's header or a key. That is less than a graph, and worth something:

    it says                       so
    these are one application's   each is as old as the first of them, so the next step is not at the end
                                  of the queue anew; among the tenant's, they are one share
    these follow each other       what the last one held, its answer too, is worth keeping for the next
    these begin alike             what they have in common is worth keeping
    here ends what comes again    the prompt can be forked exactly there, and it is worth keeping

Nothing is pinned, and all of it is forgotten after a while.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from parrot.core.executor.runtime import Runtime
from parrot.core.sessions import ALONE, Session
from parrot.types.ids import CallId, PrefixKey, SessionId, TenantId

IDLE_S = 600.0
"""An application whose last request ended so long ago is forgotten, and what was kept for it."""
DISTANCE = 2
"""The next request counts as so many stages away: behind all that wait already for what is being made."""
MAX_REMEMBERED = 512
"""Applications of one tenant, and prefixes; the oldest are forgotten first."""
MAX_MARKS = 4
"""Ends of reusable prompts that one request may have kept; the last ones count."""


@dataclass(slots=True, kw_only=True)
class _Application:
    """What is known of one."""

    since_at: float
    touched_at: float
    num_running: int = 0


@dataclass(slots=True, kw_only=True)
class _Kept:
    """A prefix that is worth keeping."""

    until_at: float
    keys: tuple[PrefixKey, ...]


@dataclass(slots=True)
class _Tenant:
    applications: OrderedDict[str, _Application] = field(default_factory=OrderedDict)
    """The one whose request was last is last."""
    kept: OrderedDict[str, _Kept] = field(default_factory=OrderedDict)
    """The one that was wanted last is last."""


class Applications:
    """Every tenant's applications that are known by their requests. Times are seconds of the wall clock."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tenants: dict[TenantId, _Tenant] = {}
        self._entered: dict[SessionId, _Application] = {}
        """Of the requests that run; one may have been forgotten meanwhile, and another have its name."""
        self._expires_at = 0.0

    def enter(self, session: Session) -> None:
        """A request begins, and its session has nothing yet."""
        now = self._runtime.clock.wall_s()
        self.expire(now)
        application = session.part_of.application
        if application is None:
            return
        known = self._tenants.setdefault(session.tenant_id, _Tenant()).applications
        found = known.setdefault(application, _Application(since_at=now, touched_at=now))
        found.num_running += 1
        self._entered[session.session_id] = found
        known.move_to_end(application)
        session.since_at = found.since_at
        while len(known) > MAX_REMEMBERED:
            known.popitem(last=False)

    def leave(self, session: Session) -> None:
        """A request has ended, however; what it held is cache by now."""
        now, part_of = self._runtime.clock.wall_s(), session.part_of
        found = self._entered.pop(session.session_id, None)
        if found is not None:
            found.num_running -= 1
            found.touched_at = now
        if part_of is ALONE and all(record.held is None for record in session.records.values()):
            return
        tenant = self._tenants.setdefault(session.tenant_id, _Tenant())
        if self._runtime.config.has("retention") and self._runtime.config.has("sharing"):
            self._keep_all(tenant, session, now)
        if part_of.is_last:
            tenant.applications.pop(part_of.application or "", None)
            self._forget(session.tenant_id, tenant, f"chain/{part_of.chain}")

    def expire(self, now: float) -> None:
        """Forget what is over at this time; costs nothing while nothing is."""
        if now < self._expires_at:
            return
        self._expires_at = now + IDLE_S / 10
        for tenant_id, tenant in list(self._tenants.items()):
            for name, known in list(tenant.applications.items()):
                if not known.num_running and now >= known.touched_at + IDLE_S:
                    del tenant.applications[name]
            for label in [label for label, kept in tenant.kept.items() if now >= kept.until_at]:
                self._forget(tenant_id, tenant, label)
            if not (tenant.applications or tenant.kept):
                del self._tenants[tenant_id]

    def _keep_all(self, tenant: _Tenant, session: Session, now: float) -> None:
        part_of = session.part_of
        for held in [record.held for record in session.records.values() if record.held is not None]:
            prompt, keys = held.prompt, held.keys
            if part_of.chain is not None and not part_of.is_last:
                self._keep(session.tenant_id, tenant, f"chain/{part_of.chain}", keys, now + IDLE_S)
            if part_of.prefix is not None:
                label = f"prefix/{part_of.prefix}"
                before = tenant.kept.get(label)
                alike = keys if before is None else _common(before.keys, keys) or keys
                self._keep(session.tenant_id, tenant, label, alike, now + (part_of.keep_s or IDLE_S))
            for length in prompt.marks[-MAX_MARKS:]:
                upto = tuple(
                    key for key, end in zip(prompt.keys, prompt.lengths, strict=True) if end <= length
                )
                until = now + (part_of.keep_s or IDLE_S)
                self._keep(session.tenant_id, tenant, f"mark/{upto[-1].hex()}", upto, until)

    def _keep(
        self,
        tenant_id: TenantId,
        tenant: _Tenant,
        label: str,
        keys: Sequence[PrefixKey],
        until_at: float,
    ) -> None:
        before = tenant.kept.get(label)
        if before is None or before.keys != keys:
            self._runtime.retention.want(_wanted_by(tenant_id, label), keys, DISTANCE)
        tenant.kept[label] = _Kept(until_at=until_at, keys=tuple(keys))
        tenant.kept.move_to_end(label)
        while len(tenant.kept) > MAX_REMEMBERED:
            self._forget(tenant_id, tenant, next(iter(tenant.kept)))

    def _forget(self, tenant_id: TenantId, tenant: _Tenant, label: str) -> None:
        if tenant.kept.pop(label, None) is not None:
            self._runtime.retention.unwant(_wanted_by(tenant_id, label))


def _wanted_by(tenant_id: TenantId, label: str) -> CallId:
    return CallId(f"{tenant_id}/{label}")


def _common(one: Sequence[PrefixKey], other: Sequence[PrefixKey]) -> tuple[PrefixKey, ...]:
    pairs = enumerate(zip(one, other, strict=False))
    end = next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
    return tuple(one[:end])
