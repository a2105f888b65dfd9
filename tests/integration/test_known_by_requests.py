"""Applications of which only requests are seen are forgotten in time, however their requests overlap."""

from contextlib import AsyncExitStack

from core_harness import TENANT, call, running_service

from parrot.core.executor.applications import IDLE_S
from parrot.core.service import Service
from parrot.core.sessions import PartOf
from parrot.wire.requests import SubmitCalls

CALLS = SubmitCalls.model_validate({"calls": [call("Say {{out}}", "v")]})


async def begun(service: Service, *, is_last: bool = False) -> AsyncExitStack:
    """A request of one application that is under way, to be closed when it has ended."""
    stack = AsyncExitStack()
    part_of = PartOf(application="one", is_last=is_last)
    await stack.enter_async_context(service.requests.run(TENANT, CALLS, name="r", part_of=part_of))
    return stack


async def test_an_application_that_began_anew_beside_requests_of_before_is_forgotten_too() -> None:
    async with running_service() as service:
        known = service.requests._applications
        first, last = await begun(service), await begun(service, is_last=True)
        await last.aclose()
        anew = await begun(service)
        await first.aclose()
        long_after = service._clock.wall_s() + 2 * IDLE_S
        known.expire(long_after)
        assert list(known._tenants[TENANT].applications) == ["one"], "a request of it runs"
        await anew.aclose()
        known.expire(long_after + IDLE_S)
        assert not known._tenants
