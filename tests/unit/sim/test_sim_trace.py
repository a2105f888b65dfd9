import json
from dataclasses import replace
from typing import Any

import pytest

from parrot.errors import ConfigError
from parrot.sim.application import Application, Ref
from parrot.sim.chance import stream
from parrot.sim.clients import Measured
from parrot.sim.cost import PRESETS
from parrot.sim.engine import SimulatedConfig
from parrot.sim.simulation import Job, SimulationConfig, simulate
from parrot.sim.trace import Trace, TraceCall, read_trace, record, replay
from parrot.sim.workloads import coding_team, map_reduce_summary
from parrot.wire.answers import Edge, GraphView

ENGINE = SimulatedConfig(cost=PRESETS["a100-80g-13b"].cost(), num_blocks=3500)
CONFIG = SimulationConfig(engines=(ENGINE,), with_calls=True)


def run(application: Application) -> Measured:
    found: list[Measured] = []
    simulate(CONFIG, [Job(at_s=0.0, application=application)], observe=found.append)
    return found[0]


def recorded(application: Application) -> tuple[Trace, Measured]:
    """A run of an application, recorded as if it had been a live session."""
    measured = run(application)
    producers = {out: call.call_id for call in measured.calls for out in call.outputs.values()}
    edges = tuple(
        Edge(source=producers[variable], target=call.call_id, variable_id=variable)
        for call in measured.calls
        for variable in call.inputs.values()
        if variable in producers
    )
    graph = GraphView(session_id="ses_1", calls=measured.calls, variables=(), edges=edges)
    return record(graph), measured


@pytest.mark.parametrize(
    "application",
    [
        map_reduce_summary(stream(0, "document"), chunk_tokens=4096),
        coding_team(stream(0, "team"), num_files=2, num_repeats=1),
    ],
    ids=["mapreduce", "team"],
)
def test_a_replayed_session_does_the_same_work_in_about_the_same_time(application: Application) -> None:
    trace, measured = recorded(application)
    again = run(replay(read_trace(json.loads(json.dumps(trace.to_json())))))
    assert sorted(call.name for call in again.calls) == sorted(call.name for call in measured.calls)
    lengths = [
        {call.name: (call.tokens.prompt, call.tokens.output) for call in each.calls}
        for each in (again, measured)
    ]
    assert lengths[0] == lengths[1]
    assert again.jct_s == pytest.approx(measured.jct_s, rel=0.1)


def test_rounds_of_a_client_are_found_again() -> None:
    application = coding_team(stream(0, "team"), num_files=2, num_repeats=1)
    assert len(replay(recorded(application)[0]).rounds) == len(application.rounds)


def test_links_between_calls_are_kept() -> None:
    trace, _ = recorded(map_reduce_summary(stream(0, "document"), chunk_tokens=4096))
    reduce = next(call for call in replay(trace).calls if call.name == "reduce")
    assert [piece.call for piece in reduce.prompt if isinstance(piece, Ref)] == list(trace.calls[-1].inputs)


def test_calls_that_failed_are_left_out_with_all_that_read_them() -> None:
    trace, measured = recorded(map_reduce_summary(stream(0, "document"), chunk_tokens=4096))
    failed = measured.calls[0].model_copy(update={"state": "failed"})
    edges = (Edge(source=failed.call_id, target=measured.calls[-1].call_id, variable_id="v"),)
    graph = GraphView(session_id="ses_1", calls=(failed, *measured.calls[1:]), variables=(), edges=edges)
    assert len(record(graph).calls) == len(trace.calls) - 2


def test_a_session_in_which_nothing_ended_cannot_be_recorded() -> None:
    with pytest.raises(ConfigError):
        record(GraphView(session_id="ses_1", calls=(), variables=(), edges=()))


ONE = TraceCall(name="a", submitted_s=0.0, prompt_tokens=10, shared_tokens=0, output_tokens=5)


@pytest.mark.parametrize("calls", [(replace(ONE, inputs=("b",)),), (ONE, ONE)], ids=["unknown", "twice"])
def test_traces_that_do_not_fit_together_are_refused(calls: tuple[TraceCall, ...]) -> None:
    with pytest.raises(ConfigError):
        replay(Trace(session_id="ses_1", calls=calls))


GOOD = Trace(session_id="ses_1", calls=(ONE,)).to_json()


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"format": 2},
        {**GOOD, "calls": [{}]},
        {**GOOD, "calls": [{"name": "a", "more": 1}]},
        {**GOOD, "calls": [{**vars_of, "output_tokens": 0} for vars_of in GOOD["calls"]]},  # type: ignore[attr-defined]
    ],
    ids=["list", "format", "empty call", "unknown field", "no output"],
)
def test_what_is_no_trace_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError):
        read_trace(value)
