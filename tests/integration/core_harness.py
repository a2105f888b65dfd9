"""A service in this process on scripted engines, for tests of the core."""

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from parrot.core.limits import Limits
from parrot.core.service import Service
from parrot.core.service_config import ServiceConfig
from parrot.engine.launch import EngineConfig, start_here
from parrot.engine.scripted_config import ScriptedConfig
from parrot.ports.clock import SystemClock
from parrot.ports.store import Store
from parrot.store import MemoryStore
from parrot.types.ids import DEFAULT_TENANT, EngineId
from parrot.wire.answers import CallsAccepted, VariableView
from parrot.wire.requests import SessionCreate, SubmitCalls

TENANT = DEFAULT_TENANT


@asynccontextmanager
async def running_service(
    *configs: EngineConfig,
    store: Store | None = None,
    limits: Limits | None = None,
    config: ServiceConfig | None = None,
) -> AsyncIterator[Service]:
    """A service with one scripted engine for each config."""
    engines = {
        EngineId(f"engine-{number}"): start_here(scripted, EngineId(f"engine-{number}"))
        for number, scripted in enumerate(configs or (ScriptedConfig(),))
    }
    service = Service(
        config=config or ServiceConfig(restart_delay_s=0.01, sweep_interval_s=0.05),
        limits=limits or Limits(),
        store=store or MemoryStore(),
        engines=engines,
        clock=SystemClock(),
        fresh=lambda: uuid.uuid4().hex,
    )
    await service.start()
    try:
        await service.wait_ready()
        yield service
    finally:
        await service.close()


async def open_session(service: Service, **fields: Any) -> str:
    """A new session's id."""
    return (await service.open_session(TENANT, SessionCreate.model_validate(fields))).session_id


async def submit(
    service: Service, sid: str, *calls: Mapping[str, Any], key: str | None = None, body: str = ""
) -> CallsAccepted:
    """Submit calls written as JSON values."""
    request = SubmitCalls.model_validate({"calls": calls})
    return await service.submit(TENANT, sid, request, idempotency_key=key, body_hash=body)


async def get(service: Service, sid: str, ref: str, wait_s: float = 10.0) -> VariableView:
    """A variable, waited for."""
    return await service.get_variable(TENANT, sid, ref, wait_s=wait_s)


def call(template: str, output: str, *, max_tokens: int = 8, **inputs: str) -> dict[str, Any]:
    """A call with one output `out`, named `output`; an input that starts with `$` is a variable."""
    parameters: dict[str, Any] = {
        name: {"variable": value[1:]} if value.startswith("$") else {"value": value}
        for name, value in inputs.items()
    }
    sampling = {"max_tokens": max_tokens, "ignore_eos": True}
    parameters["out"] = {"output": {"variable": output, "sampling": sampling}}
    return {"template": template, "parameters": parameters}
