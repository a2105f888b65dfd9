"""Nothing of a closed session waits for the cycle collector: when its last holder goes, all of it is gone."""

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest
from core_harness import TENANT, call, get, open_session, running_service, submit

from parrot.core.analysis.application import ApplicationAnalysis
from parrot.core.executor.direct import Constant, DirectCall, Generated, Given, Named
from parrot.core.graph import ApplicationGraph, Call
from parrot.core.service import Service
from parrot.core.sessions import CallRecord, Session
from parrot.core.variables import Variable
from parrot.engine.scripted_config import ScriptedConfig, ScriptedFault
from parrot.errors import GoneError
from parrot.sim.application import Application
from parrot.sim.chance import stream
from parrot.sim.cost import PRESETS
from parrot.sim.engine import SimulatedConfig
from parrot.sim.simulation import Job, SimulationConfig, simulate
from parrot.sim.workloads import chain_summary, map_reduce_summary
from parrot.types.sampling import Sampling
from parrot.wire.requests import CallSpec, CancelRequest

OF_A_SESSION = (Session, ApplicationGraph, ApplicationAnalysis, Call, CallRecord, Variable)
PATIENCE_S = 30.0
SLOW = ScriptedConfig(decode_step_s=0.02, tokens_per_step=1)


OTHERS: dict[int, object] = {}
"""What services of other tests hold, by identity; held here too, so that none is given again meanwhile."""


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    OTHERS.update((id(each), each) for each in gc.get_objects() if type(each) in OF_A_SESSION)
    gc.disable()
    yield
    gc.enable()
    OTHERS.clear()


def alive() -> Counter[str]:
    """How many objects of sessions there are that this test made, by their classes."""
    return Counter(
        type(each).__name__
        for each in gc.get_objects()
        if type(each) in OF_A_SESSION and id(each) not in OTHERS
    )


async def all_gone() -> bool:
    """Whether they all go, once those who run have come to their end."""
    async with asyncio.timeout(PATIENCE_S):
        while alive():
            await asyncio.sleep(0.02)
    return True


async def run_to_the_end(service: Service, sid: str) -> None:
    """A chain and two calls that share its first."""
    await submit(
        service,
        sid,
        call("Write: {{out}}", "draft"),
        call("Improve {{text}}: {{out}}", "better", text="$draft"),
        call("Shorten {{text}} by {{much}}: {{out}}", "short", text="$draft", much="half"),
    )
    await get(service, sid, "better", wait_s=PATIENCE_S)
    await get(service, sid, "short", wait_s=PATIENCE_S)


async def leave_in_the_middle(service: Service, sid: str) -> None:
    """Somebody waits for a value that takes long."""
    await submit(service, sid, call("Write: {{out}}", "draft", max_tokens=500))
    waiting = asyncio.create_task(get(service, sid, "draft", wait_s=PATIENCE_S))
    while not any(node.state == "running" for node in service.graph(TENANT, sid).calls):
        await asyncio.sleep(0.01)
    await service.delete_session(TENANT, sid)
    # Raised here, the error would hold this frame, which holds the error.
    (ended,) = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(ended, GoneError)


async def cancel_everything(service: Service, sid: str) -> None:
    """Cancelled while it runs."""
    await submit(
        service,
        sid,
        call("Write: {{out}}", "draft", max_tokens=500),
        call("Improve {{text}}: {{out}}", "better", text="$draft"),
    )
    await service.cancel(TENANT, sid, CancelRequest())


@pytest.mark.parametrize(
    ("engine", "use"),
    [
        pytest.param(ScriptedConfig(), run_to_the_end, id="done"),
        pytest.param(SLOW, leave_in_the_middle, id="left"),
        pytest.param(SLOW, cancel_everything, id="cancelled"),
        pytest.param(
            ScriptedConfig(faults=(ScriptedFault(kind="raise", times=1),)), run_to_the_end, id="tried again"
        ),
    ],
)
async def test_a_closed_session_is_freed_without_the_collector(
    engine: ScriptedConfig, use: Callable[[Service, str], Awaitable[None]]
) -> None:
    async with running_service(engine) as service:
        for _ in range(3):
            sid = await open_session(service)
            await use(service, sid)
            if any(each.session_id == sid for each in service.list_sessions(TENANT).sessions):
                await service.delete_session(TENANT, sid)
            assert await all_gone()


async def test_a_direct_session_is_freed_without_the_collector() -> None:
    sampling = Sampling(max_tokens=8, ignore_eos=True)
    async with running_service(ScriptedConfig(served_name="m")) as service:
        session = service.direct.open(TENANT)
        service.direct.submit(
            session,
            "m",
            [
                DirectCall("a", [Constant("Write of "), Given("dogs"), Generated("text", sampling)]),
                DirectCall("b", [Constant("Shorten "), Named("text"), Generated("short", sampling)]),
            ],
        )
        (short,) = await service.direct.values(session, ["short"], "latency")
        assert short
        service.direct.close(session)
        del session
        assert await all_gone()


def applications() -> Iterator[Application]:
    """Ten of each kind."""
    rng = stream(0, "freed")
    for _ in range(10):
        yield chain_summary(rng, chunk_tokens=4096)
        yield map_reduce_summary(rng, chunk_tokens=4096)


def test_a_simulation_holds_no_more_than_the_applications_that_are_there() -> None:
    engine = SimulatedConfig(cost=PRESETS["a100-80g-13b"].cost(), num_blocks=3500)
    jobs = (Job(at_s=100.0 * number, application=each) for number, each in enumerate(applications()))
    most: list[int] = []
    simulate(SimulationConfig(engines=(engine,)), jobs, observe=lambda _: most.append(alive()["Session"]))
    assert max(most) <= 1


async def test_what_a_client_sent_is_not_kept_once_it_is_lowered() -> None:
    def num_specs() -> int:
        return sum(type(each) is CallSpec for each in gc.get_objects())

    async with running_service() as service:
        sid = await open_session(service)
        before = num_specs()
        await submit(service, sid, *(call("Say {{a}}: {{out}}", f"v{i}", a="$later") for i in range(50)))
        assert len(service.graph(TENANT, sid).calls) == 50
        assert num_specs() - before < 10
