"""Running what a body asks for: by itself, or as a part of an application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from parrot.core.executor.requests import RequestRun
from parrot.core.service import Service
from parrot.server.openai.lowering import Wanted
from parrot.types.ids import TenantId


@asynccontextmanager
async def running(
    service: Service, tenant: TenantId, wanted: Wanted, *, name: str
) -> AsyncIterator[RequestRun]:
    """The calls that are wanted: by themselves, and gone with the block; or in an application's session,
    where they go on.
    """
    if wanted.parrot is None or wanted.parrot.session_id is None:
        async with service.requests.run(
            tenant,
            wanted.submission(),
            name=name,
            objective=wanted.objective,
            metadata=wanted.labels,
            part_of=wanted.part_of,
            opaque=wanted.opaque,
        ) as run:
            yield run
        return
    waited = wanted.parrot.objective is not None or wanted.parrot.wait
    yield await service.requests.run_in(
        tenant,
        wanted.parrot.session_id,
        wanted.submission(),
        objective=wanted.objective if waited else None,
    )
