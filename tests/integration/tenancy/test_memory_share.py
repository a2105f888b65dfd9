"""While others' calls wait, a tenant is given no more of the engines' memory than its share of it."""

import asyncio

import pytest
from core_harness import call, running_service

from parrot.core.admission import TenantTerms
from parrot.core.limits import Limits
from parrot.core.service import Service
from parrot.engine.scripted_config import ScriptedConfig
from parrot.types.ids import TenantId
from parrot.wire.requests import SessionCreate, SubmitCalls

NUM_CALLS, TOKENS = 40, 90
BOUNDED, OTHER = TenantId("bounded"), TenantId("other")
ENGINE = ScriptedConfig(decode_step_s=0.02, tokens_per_step=8, num_blocks=64)
"""Memory for ten such calls."""


async def submit_all(service: Service, tenant: TenantId) -> str:
    sid = (await service.open_session(tenant, SessionCreate(name=None))).session_id
    specs = [
        call(f"{tenant} {number} {{{{out}}}}", f"v{number}", max_tokens=TOKENS) for number in range(NUM_CALLS)
    ]
    await service.submit(tenant, sid, SubmitCalls.model_validate({"calls": specs}))
    return sid


async def most_at_a_time(share: float) -> int:
    """How many calls of the bounded tenant ran together while the other's waited; all of both end well."""
    limits = Limits(max_running_calls=0, requests_per_s=0, tokens_per_minute=0)
    most = 0
    async with running_service(ENGINE, limits=limits) as service:
        service.set_tenants({BOUNDED: TenantTerms(limits={"max_kv_share": share})}, metered=True)
        sids = {tenant: await submit_all(service, tenant) for tenant in (OTHER, BOUNDED)}
        async with asyncio.timeout(60):
            while True:
                states = {
                    tenant: [told.state for told in service.graph(tenant, sid).calls]
                    for tenant, sid in sids.items()
                }
                if "ready" not in states[OTHER]:
                    break
                most = max(most, states[BOUNDED].count("running"))
                await asyncio.sleep(0.01)
            for tenant, sid in sids.items():
                for number in range(NUM_CALLS):
                    view = await service.get_variable(tenant, sid, f"v{number}", wait_s=60)
                    assert view.state == "ready"
    return most


@pytest.mark.parametrize(("share", "lowest", "highest"), [(0.2, 1, 3), (1.0, 4, NUM_CALLS)])
async def test_a_tenant_gets_its_share_of_memory_while_others_wait(
    share: float, lowest: int, highest: int
) -> None:
    assert lowest <= await most_at_a_time(share) <= highest
