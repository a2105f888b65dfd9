"""Registering semantic functions, and having their constant beginnings where their calls will run.

A registered function's prompt is known before anybody calls it. So the keys of its beginning are worth
keeping from then on (`retention`), and can be filled before the first call: on request, or on every engine
that comes up when the function says `warm`. What is filled is cache like any other: nothing is pinned.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from parrot.core.executor.runtime import Runtime
from parrot.core.executor.unbroken import Unbroken
from parrot.core.functions import Function, encode_spec, log_of
from parrot.core.lowering import CheckedCall, check_call, lower
from parrot.core.prompts import Leading, Model, write_leading
from parrot.core.variables import Variable
from parrot.errors import InvalidError, ParrotError, UnavailableError
from parrot.types.events import Event, FunctionRegistered, FunctionRemoved, SessionOpened
from parrot.types.ids import NAME_PATTERN, CallId, TenantId, VariableId
from parrot.wire.functions import (
    FunctionInputView,
    FunctionList,
    FunctionSpec,
    FunctionView,
    WarmAnswer,
    WarmedEngine,
)

DISTANCE = 3
"""A registered function's next call counts as so many stages away: behind all calls that are there."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What a registration led to."""

    view: FunctionView
    created: bool
    """False when the latest version says the same."""


class Functions:
    """Every tenant's registered functions. `run` works until it is cancelled."""

    def __init__(self, runtime: Runtime, unbroken: Unbroken, *, check_open: Callable[[], None]) -> None:
        """`check_open` raises while nothing new is taken."""
        self._runtime = runtime
        self._registry = runtime.functions
        self._unbroken = unbroken
        self._check_open = check_open
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._known: dict[str, Mapping[str, Leading]] = {}
        """The constant beginnings of functions, by model."""
        self._wanted: dict[str, int] = {}
        """Functions whose beginnings are kept, and for how many models."""
        self._tried: set[tuple[str, str, int]] = set()
        """Function, engine and the engine's start: was filled there, or could not be."""
        self.num_faults = 0
        """Functions that were not kept warm by a fault of the service."""

    # ── what clients ask for ────────────────────────────────────────────────────────────────────────────────

    async def register(self, tenant: TenantId, name: str, spec: FunctionSpec) -> Registered:
        """Register a function or a new version of it; durable when this returns.

        Raises:
            InvalidError: `bad_name`, and what a call of it would be refused for.
            OverLimitError: the tenant has as many as it may have.
        """
        self._check_open()
        if not NAME_PATTERN.match(name):
            raise InvalidError(
                "a function's name is an identifier of at most 64 characters", code="bad_name", param="name"
            )
        return await self._unbroken.run(self._register(tenant, name, spec))

    async def _register(self, tenant: TenantId, name: str, spec: FunctionSpec) -> Registered:
        async with self._changing:
            now_s = self._runtime.clock.wall_s()
            function = self._registry.check(tenant, name, spec, self._runtime.limits, now_s=now_s)
            created = function not in self._registry.versions(tenant, name)
            if created:
                # Refuses messages that a model's chat template cannot take.
                await asyncio.to_thread(self._leadings, function)
                self._runtime.admission.check_storage(tenant)
                await self._commit(
                    tenant,
                    FunctionRegistered(
                        session_id=log_of(tenant),
                        name=name,
                        version=function.version,
                        spec=encode_spec(spec),
                        wall_s=now_s,
                    ),
                )
        return Registered(view=self._view(function), created=created)

    def list_all(self, tenant: TenantId, *, limit: int = 100, after: str | None = None) -> FunctionList:
        """The latest version of each of the tenant's functions, by name, a page at a time."""
        names = [name for name in self._registry.names(tenant) if after is None or name > after]
        page = names[:limit]
        return FunctionList(
            functions=tuple(self._view(self._registry.find(tenant, name)) for name in page),
            next=page[-1] if len(names) > limit else None,
        )

    def read(self, tenant: TenantId, ref: str) -> FunctionView:
        """One version: `name` means the latest, `name@3` that one."""
        return self._view(self._registry.find(tenant, ref))

    async def remove(self, tenant: TenantId, name: str) -> None:
        """Forget a function with all its versions; calls of it that were accepted go on."""
        self._registry.find(tenant, name)
        if not NAME_PATTERN.match(name):
            raise InvalidError(
                "a function is removed with all its versions: leave the version out",
                code="bad_name",
                param="name",
            )
        await self._unbroken.run(self._remove(tenant, name))

    async def _remove(self, tenant: TenantId, name: str) -> None:
        async with self._changing:
            self._registry.find(tenant, name)
            now_s = self._runtime.clock.wall_s()
            await self._commit(tenant, FunctionRemoved(session_id=log_of(tenant), name=name, wall_s=now_s))

    async def warm(self, tenant: TenantId, ref: str) -> WarmAnswer:
        """Fill a function's constant beginning on every engine of its model that is up; returns when it is
        there.

        Raises:
            UnavailableError: `engine_unavailable`.
        """
        function = self._registry.find(tenant, ref)
        leadings = self._leadings(function)
        warmed: list[WarmedEngine] = []
        for member in self._runtime.fleet.members.values():
            leading = leadings.get(member.info.model) if member.info is not None else None
            if leading is None or member.status != "up":
                continue
            num_filled = await self._runtime.ahead.fill_now(member, leading)
            match = self._runtime.fleet.index.longest(member.engine_id, leading.keys)
            warmed.append(
                WarmedEngine(
                    engine_id=member.engine_id,
                    held_tokens=match.ref.num_tokens if match else 0,
                    num_filled_tokens=num_filled,
                )
            )
        if not warmed:
            raise UnavailableError(
                "no engine of the function's model is up",
                code="engine_unavailable",
                data={"retry_after_s": 1},
            )
        return WarmAnswer(
            name=function.name,
            version=function.version,
            prefix_tokens=max(len(leading.token_ids) for leading in leadings.values()),
            engines=tuple(warmed),
        )

    # ── what is done without being asked ────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Keep what is registered in view of the engines that are up, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_fleet())
            while True:
                self._changed.clear()
                await self._consider()
                await self._changed.wait()

    async def _watch_fleet(self) -> None:
        while True:
            await self._runtime.fleet.wait_change()
            self._changed.set()

    async def _consider(self) -> None:
        latest = self._registry.latest()
        labels = {_label(function) for function in latest}
        self._unwant_all_but(labels)
        self._known = {label: known for label, known in self._known.items() if label in labels}
        starts = {(member.engine_id, member.num_starts) for member in self._runtime.fleet.members.values()}
        self._tried = {tried for tried in self._tried if (tried[1], tried[2]) in starts}
        for function in latest:
            try:
                await self._consider_one(function)
            except Exception:
                # Keeping beginnings is an extra: without it, calls compute them.
                self.num_faults += 1
                logger.exception("keeping a function warm failed by a fault of the service")

    async def _consider_one(self, function: Function) -> None:
        try:
            leadings = await asyncio.to_thread(self._leadings, function)
        except ParrotError as error:
            logger.warning("the function %s does not suit a model: %s", function.ref, error.message)
            return
        self._want(function, leadings)
        if function.spec.warm:
            await self._keep_warm(function, leadings)

    def _want(self, function: Function, leadings: Mapping[str, Leading]) -> None:
        if not self._runtime.config.has("retention"):
            return
        label = _label(function)
        self._wanted[label] = len(leadings)
        for number, leading in enumerate(leadings.values()):
            self._runtime.retention.want(CallId(f"{label} {number}"), leading.keys, DISTANCE)

    def _unwant_all_but(self, labels: set[str]) -> None:
        for label in [known for known in self._wanted if known not in labels]:
            for number in range(self._wanted.pop(label)):
                self._runtime.retention.unwant(CallId(f"{label} {number}"))

    async def _keep_warm(self, function: Function, leadings: Mapping[str, Leading]) -> None:
        for member in list(self._runtime.fleet.members.values()):
            leading = leadings.get(member.info.model) if member.info is not None else None
            tried = (_label(function), member.engine_id, member.num_starts)
            if leading is not None and member.status == "up" and tried not in self._tried:
                self._tried.add(tried)
                await self._runtime.ahead.fill_now(member, leading)

    # ── parts ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _commit(self, tenant: TenantId, event: FunctionRegistered | FunctionRemoved) -> None:
        events: list[Event] = [event]
        if not self._registry.has_log(tenant):
            events.insert(0, _opening(tenant, event))
        await self._runtime.journal.commit(events)
        self._registry.apply(tenant, event)
        self._changed.set()

    def _leadings(self, function: Function) -> Mapping[str, Leading]:
        """The constant beginning of the prompt, by each model it may run on that is known.

        Raises:
            TemplateError: a model's chat template cannot take the messages.
        """
        models = self._runtime.fleet.models
        chosen = [function.spec.model] if function.spec.model is not None else list(models)
        known = self._known.get(_label(function), {})
        missing = [models[name] for name in chosen if name in models and name not in known]
        if missing:
            checked = check_call(function.as_call(), self._runtime.limits)
            known = {**known, **{model.name: self._leading(function, checked, model) for model in missing}}
            self._known[_label(function)] = known
        return known

    def _leading(self, function: Function, checked: CheckedCall, model: Model) -> Leading:
        program = lower(
            checked,
            inputs={name: VariableId(name) for name in function.inputs()},
            outputs={name: VariableId(name) for name in function.spec.outputs},
            model=model.name,
            tokenizer=model.tokenizer,
            published=self._runtime.config.shared_prefixes,
        )
        return write_leading(
            program,
            model,
            lambda variable_id: Variable(variable_id=variable_id),
            tenant_id=function.tenant_id,
            salt=self._runtime.config.salt,
            cache=self._runtime.tokens,
        )

    def _view(self, function: Function) -> FunctionView:
        spec = function.spec
        versions = self._registry.versions(function.tenant_id, function.name)
        return FunctionView(
            name=function.name,
            version=function.version,
            versions=tuple(each.version for each in versions),
            created_at=function.created_at,
            description=spec.description,
            model=spec.model,
            template=spec.template,
            messages=spec.messages,
            inputs={
                name: FunctionInputView(default=spec.inputs[name].default if name in spec.inputs else None)
                for name in function.inputs()
            },
            outputs={
                name: spec.outputs[name].model_dump(mode="json", by_alias=True, exclude_defaults=True)
                for name in function.placeholders()
                if name in spec.outputs
            },
            warm=spec.warm,
            prefix_tokens=max(
                (len(each.token_ids) for each in self._leadings(function).values()), default=None
            ),
        )


def _label(function: Function) -> str:
    return f"{log_of(function.tenant_id)}/{function.ref}"


def _opening(tenant: TenantId, event: FunctionRegistered | FunctionRemoved) -> SessionOpened:
    return SessionOpened(
        session_id=event.session_id,
        tenant_id=tenant,
        name=None,
        objective=None,
        deadline_s=None,
        metadata={},
        wall_s=event.wall_s,
    )
