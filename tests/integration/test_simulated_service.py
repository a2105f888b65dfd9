"""The simulated service and the one in real time make the same of an application."""

import asyncio
from typing import Any

import pytest
from core_harness import running_service

from parrot.engine.scripted_config import ScriptedConfig
from parrot.ports.clock import SystemClock
from parrot.sim.application import Application
from parrot.sim.chance import stream
from parrot.sim.clients import Client, ClientKind, Measured
from parrot.sim.cost import PRESETS
from parrot.sim.engine import MODEL, SimulatedConfig
from parrot.sim.simulation import Job, SimulationConfig, simulate
from parrot.sim.workloads import chain_summary, coding_team, map_reduce_summary

SMALL: dict[str, Application] = {
    "chain": chain_summary(stream(0, "document"), chunk_tokens=8192, output_tokens=4),
    "mapreduce": map_reduce_summary(stream(0, "document"), chunk_tokens=4096, output_tokens=4),
    "team": coding_team(stream(0, "team"), num_files=2, num_repeats=1),
}


def structure(measured: Measured) -> list[dict[str, Any]]:
    """Everything about a run that does not depend on time, costs or the model's words."""
    names = {
        variable_id: f"{call.name}.{placeholder}"
        for call in measured.calls
        for placeholder, variable_id in call.outputs.items()
    }
    return [
        {
            "name": call.name,
            "state": call.state,
            "stage": call.stage,
            "objective": call.objective,
            "attempt": call.attempt,
            "output_tokens": call.tokens.output,
            "inputs": {name: names.get(variable_id) for name, variable_id in call.inputs.items()},
        }
        for call in measured.calls
    ]


async def in_real_time(application: Application, kind: ClientKind) -> Measured:
    """Run it on a scripted engine."""
    async with running_service(ScriptedConfig(served_name=MODEL)) as service:
        return await Client(service, SystemClock(), kind=kind, with_calls=True).run(application)


def simulated(application: Application, kind: ClientKind) -> Measured:
    """Run it in virtual time."""
    engine = SimulatedConfig(cost=PRESETS["h100-80g-8b"].cost(), num_blocks=5000)
    found: list[Measured] = []
    simulate(
        SimulationConfig(engines=(engine,), client=kind, with_calls=True),
        [Job(at_s=0.0, application=application)],
        observe=found.append,
    )
    return found[0]


@pytest.mark.parametrize("kind", ["graph", "requests"])
@pytest.mark.parametrize("app", list(SMALL))
def test_an_application_has_the_same_graph_and_results_in_both(app: str, kind: ClientKind) -> None:
    real = asyncio.run(in_real_time(SMALL[app], kind))
    virtual = simulated(SMALL[app], kind)
    assert (real.error, virtual.error) == (None, None)
    assert structure(virtual) == structure(real)
