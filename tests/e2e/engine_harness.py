"""A service in this process whose engines are processes that can be stopped and killed."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from parrot.core.limits import Limits
from parrot.core.service import Service
from parrot.core.service_config import ServiceConfig
from parrot.engine.launch import start_in_process
from parrot.engine.remote import Liveness
from parrot.engine.scripted_config import ScriptedConfig
from parrot.ports.clock import SystemClock
from parrot.store import MemoryStore
from parrot.types.ids import DEFAULT_TENANT, EngineId
from parrot.wire.answers import VariableView
from parrot.wire.requests import SessionCreate, SubmitCalls


def engine_processes(program: str = "parrot.engine.worker") -> list[int]:
    """Child processes of this one that run an engine."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = int(status.read_text().partition("PPid:")[2].split()[0])
            command = (status.parent / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == os.getpid() and program.encode() in command:
            found.append(int(status.parent.name))
    return found


@asynccontextmanager
async def service_on_processes(
    engines: Mapping[str, ScriptedConfig],
    *,
    wait_for: int | None = None,
    liveness: Liveness | None = None,
    max_restart_delay_s: float = 30.0,
    limits: Limits | None = None,
) -> AsyncIterator[Service]:
    """A service with these engines, as soon as all of them, or `wait_for` of them, are up."""
    service = Service(
        config=ServiceConfig(restart_delay_s=0.05, max_restart_delay_s=max_restart_delay_s),
        limits=limits or Limits(),
        store=MemoryStore(),
        engines={
            EngineId(name): start_in_process(config, EngineId(name), liveness=liveness)
            for name, config in engines.items()
        },
        clock=SystemClock(),
        fresh=lambda: uuid.uuid4().hex,
    )
    await service.start()
    try:
        async with asyncio.timeout(30):
            while sum(e.state == "up" for e in service.engines().engines) < (wait_for or len(engines)):
                await asyncio.sleep(0.05)
        yield service
    finally:
        await service.close()


def call(text: str, output: str, max_tokens: int, *, model: str | None = None) -> dict[str, Any]:
    """A call with one output of just so many tokens."""
    sampling = {"max_tokens": max_tokens, "ignore_eos": True}
    out = {"output": {"variable": output, "sampling": sampling}}
    written = {"template": "{{text}} {{out}}", "parameters": {"text": {"value": text}, "out": out}}
    return written if model is None else {**written, "model": model}


async def submit(service: Service, calls: list[dict[str, Any]]) -> str:
    """Submit calls in a new session; its id."""
    session = await service.open_session(DEFAULT_TENANT, SessionCreate())
    request = SubmitCalls.model_validate({"calls": calls})
    await service.submit(DEFAULT_TENANT, session.session_id, request)
    return session.session_id


async def get(service: Service, sid: str, name: str) -> VariableView:
    """A variable, waited for."""
    return await service.get_variable(DEFAULT_TENANT, sid, name, wait_s=30)
