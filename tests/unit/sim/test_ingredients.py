"""What single ingredients are for, each on a load that shows it."""

from dataclasses import replace
from itertools import islice, pairwise
from statistics import fmean

import pytest

from parrot.core.service_config import Ingredient
from parrot.sim.application import AppCall, Application, Ref, Text
from parrot.sim.arrivals import poisson
from parrot.sim.chance import stream
from parrot.sim.clients import Measured
from parrot.sim.cost import PRESETS
from parrot.sim.engine import SimulatedConfig
from parrot.sim.simulation import Job, Report, SimulationConfig, simulate
from parrot.sim.workloads import APPLICATIONS, roles

ENGINE = SimulatedConfig(cost=PRESETS["a100-80g-13b"].cost(), num_blocks=3500)


def run(
    app: str,
    *,
    count: int,
    rate: float,
    engine: SimulatedConfig = ENGINE,
    without: tuple[Ingredient, ...] = (),
) -> Report:
    rng = stream(0, app)
    times = islice(poisson(stream(0, "times"), rate), count)
    jobs = [Job(at_s=at_s, application=APPLICATIONS[app](rng)) for at_s in times]
    return simulate(SimulationConfig(engines=(engine,) * 4, without=without), jobs)


def mean_jct_s(report: Report) -> float:
    assert report.num_errors == 0
    return fmean(report.all_jct_s())


def test_long_manuals_are_read_while_the_role_before_still_writes() -> None:
    ahead, not_ahead = (
        mean_jct_s(run("roles", count=6, rate=0.1, without=without))
        for without in ((), ("prefill-ahead", "pipelining"))
    )
    assert not_ahead > 1.1 * ahead


def test_inputs_that_end_together_do_not_make_their_reader_wait_for_a_fill_of_each() -> None:
    ahead, not_ahead = (
        mean_jct_s(run("questions", count=20, rate=0.4, without=without))
        for without in ((), ("prefill-ahead",))
    )
    assert ahead < 1.01 * not_ahead


def test_what_is_stages_away_takes_no_memory_from_what_is_next() -> None:
    ahead, not_ahead = (
        mean_jct_s(run("roles", count=12, rate=0.8, without=without)) for without in ((), ("prefill-ahead",))
    )
    assert ahead < 1.05 * not_ahead


def test_an_idle_engine_fills_much_and_the_call_goes_there() -> None:
    calls: list[Measured] = []
    job = Job(at_s=0.0, application=roles(stream(0, "roles"), num_roles=4))
    simulate(SimulationConfig(engines=(ENGINE,) * 4, with_calls=True), [job], observe=calls.append)
    ran = calls[0].calls
    assert all(one.engine_id != two.engine_id for one, two in pairwise(ran))
    assert [each.tokens.ahead for each in ran] == [0, 3000, 3000, 3000]


def test_a_document_that_is_wanted_again_outlives_others_in_a_short_memory() -> None:
    kept, forgotten = (
        run("recheck", count=50, rate=1.0, without=without) for without in ((), ("retention",))
    )
    assert kept.num_shared_tokens > 1.2 * forgotten.num_shared_tokens
    assert mean_jct_s(kept) < mean_jct_s(forgotten)


def test_what_another_engine_holds_is_not_filled_again_beside_the_input() -> None:
    report = run("recheck", count=4, rate=0.02)
    computed = sum(load.num_prefilled_tokens for load in report.engines.values())
    assert computed < 4 * (6000 + 1000)


def test_without_groups_no_call_is_one_of_a_group() -> None:
    parts = tuple(
        AppCall(name=f"part_{i}", prompt=(Text(num_tokens=200, seed=50 + i),), num_output_tokens=20)
        for i in range(4)
    )
    whole = AppCall(name="whole", prompt=tuple(Ref(call=each.name) for each in parts), num_output_tokens=20)
    job = Job(at_s=0.0, application=Application(kind="parts", rounds=((*parts, whole),)))
    config = SimulationConfig(engines=(ENGINE,), with_calls=True)
    groups: list[set[str | None]] = []
    for each in (config, replace(config, without=("groups",))):
        found: list[Measured] = []
        simulate(each, [job], observe=found.append)
        groups.append({call.task_group for call in found[0].calls if call.name != "whole"})
    assert (len(groups[0]), None in groups[0], groups[1]) == (1, False, {None})


@pytest.mark.parametrize("without", [(), ("pipelining",)])
def test_a_text_that_is_written_on_is_taken_as_it_is_written(without: tuple[Ingredient, ...]) -> None:
    engine = replace(ENGINE, piece_tokens=16)
    report = run("rewrite", count=1, rate=1.0, engine=engine, without=without)
    is_taken = report.num_shared_tokens > 0.8 * (report.num_prompt_tokens - 260)
    assert is_taken == (not without)
