from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parrot.core.service_config import Ingredient
from parrot.errors import ConfigError
from parrot.sim.application import AppCall, Application, Piece, Ref, Text, check_application
from parrot.sim.arrivals import bursts, poisson, uniform
from parrot.sim.chance import stream
from parrot.sim.clients import Measured, measured_round_trip
from parrot.sim.comparison import Workload, summary
from parrot.sim.cost import PRESETS
from parrot.sim.engine import SimulatedConfig
from parrot.sim.simulation import Job, Report, SimulationConfig, simulate
from parrot.sim.workloads import APPLICATIONS, chain_summary, map_reduce_summary

AHEAD: tuple[Ingredient, ...] = ("prefill-ahead", "pipelining")
ENGINE = SimulatedConfig(cost=PRESETS["a100-80g-13b"].cost(), num_blocks=3500)
CONFIG = SimulationConfig(engines=(ENGINE, ENGINE), policy="longest-prefix")


def run(config: SimulationConfig, jobs: list[Job]) -> tuple[Report, list[Measured]]:
    found: list[Measured] = []
    return simulate(config, jobs, observe=found.append), found


def some_jobs(count: int = 6) -> list[Job]:
    rng = stream(1, "jobs")
    makers = [chain_summary, map_reduce_summary]
    return [Job(at_s=0.7 * i, application=makers[i % 2](rng, chunk_tokens=4096)) for i in range(count)]


@pytest.mark.parametrize("client", ["graph", "requests"])
def test_two_runs_are_alike_to_the_last_digit(client: str) -> None:
    config = SimulationConfig(
        engines=(ENGINE, ENGINE),
        client=client,  # type: ignore[arg-type]
        round_trip=None,
        with_calls=True,
    )
    first, second = (run(config, some_jobs()) for _ in range(2))
    assert first == second
    assert first[0].num_errors == 0


def test_another_seed_gives_other_round_trips() -> None:
    reports = [
        run(SimulationConfig(engines=(ENGINE,), round_trip=None, seed=seed), some_jobs(2))[0]
        for seed in (0, 1)
    ]
    assert reports[0].jct_s != reports[1].jct_s


@st.composite
def applications(draw: st.DrawFn) -> Application:
    calls: list[AppCall] = []
    for index in range(draw(st.integers(1, 8))):
        reads = draw(st.lists(st.integers(0, index - 1), max_size=3, unique=True)) if index else []
        prompt: list[Piece] = [Text(num_tokens=draw(st.integers(1, 300)), seed=draw(st.integers(0, 2)))]
        prompt += [Ref(call=f"c{each}") for each in reads]
        output = draw(st.integers(1, 80))
        calls.append(AppCall(name=f"c{index}", prompt=tuple(prompt), num_output_tokens=output))
    check_application(calls)
    return Application(kind="drawn", rounds=(tuple(calls),))


@settings(deadline=None, max_examples=40)
@given(
    apps=st.lists(applications(), min_size=1, max_size=5),
    policy=st.sampled_from(["fifo", "longest-prefix"]),
    client=st.sampled_from(["graph", "requests"]),
    num_blocks=st.integers(80, 200),
    chunked=st.booleans(),
    sharing=st.booleans(),
)
def test_every_call_ends_and_every_block_returns(
    apps: list[Application], policy: str, client: str, num_blocks: int, chunked: bool, sharing: bool
) -> None:
    engine = SimulatedConfig(
        cost=ENGINE.cost, num_blocks=num_blocks, max_batch=4, step_tokens=128, chunked=chunked
    )
    config = SimulationConfig(
        engines=(engine, engine),
        policy=policy,
        client=client,  # type: ignore[arg-type]
        without=() if sharing else ("sharing",),
        with_calls=True,
    )
    report, found = run(config, [Job(at_s=0.05 * i, application=app) for i, app in enumerate(apps)])
    assert report.num_errors == 0
    assert report.num_calls == sum(app.num_calls for app in apps)
    assert all(call.state == "done" for measured in found for call in measured.calls)
    assert report.num_output_tokens == sum(c.num_output_tokens for app in apps for c in app.calls)
    assert all(load.num_owned_blocks == 0 for load in report.engines.values())
    assert sum(load.num_decoded_tokens for load in report.engines.values()) >= report.num_output_tokens


def test_a_whole_graph_saves_a_round_trip_for_each_dependent_call() -> None:
    chain = chain_summary(stream(0, "document"), chunk_tokens=4096)
    jobs = [Job(at_s=0.0, application=chain)]
    whole = run(SimulationConfig(engines=(ENGINE,), round_trip=0.3, without=AHEAD), jobs)[1][0].jct_s
    single = run(SimulationConfig(engines=(ENGINE,), round_trip=0.3, client="requests", without=AHEAD), jobs)[
        1
    ][0].jct_s
    assert single - whole == pytest.approx(0.3 * (chain.num_calls - 1), rel=0.01)


def test_without_sharing_every_prompt_is_filled_whole() -> None:
    system = Text(num_tokens=1000, seed=1)
    jobs = [
        Job(
            at_s=i * 10.0,
            application=Application(
                kind="one",
                rounds=(
                    (
                        AppCall(
                            name="c", prompt=(system, Text(num_tokens=50, seed=10 + i)), num_output_tokens=5
                        ),
                    ),
                ),
            ),
        )
        for i in range(4)
    ]
    shared, alone = (
        run(SimulationConfig(engines=(ENGINE,), without=() if sharing else ("sharing",)), jobs)[0]
        for sharing in (True, False)
    )
    assert shared.engines["engine-0"].num_prefilled_tokens == 1000 + 4 * 50  # type: ignore[index]
    assert alone.engines["engine-0"].num_prefilled_tokens == 4 * 1050  # type: ignore[index]


def test_rounds_wait_for_each_other() -> None:
    calls = [
        AppCall(name=f"c{i}", prompt=(Text(num_tokens=9, seed=i),), num_output_tokens=9) for i in range(2)
    ]
    application = Application(kind="rounds", rounds=((calls[0],), (calls[1],)))
    _, (found,) = run(
        SimulationConfig(engines=(ENGINE,), with_calls=True), [Job(at_s=0.0, application=application)]
    )
    first, second = found.calls
    assert first.times.done_s is not None
    assert second.times.submitted_s >= first.times.done_s


def test_no_more_applications_run_at_a_time_than_were_allowed() -> None:
    config = SimulationConfig(engines=(ENGINE,), max_concurrent=2)
    _, found = run(config, [Job(at_s=0.0, application=job.application) for job in some_jobs()])
    moments = sorted(
        [(each.began_at_s, 1) for each in found]
        + [(each.began_at_s + each.jct_s - 1e-9, -1) for each in found]
    )
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    assert most == 2


def test_an_application_that_cannot_run_is_counted_and_ends_nothing_else() -> None:
    long = AppCall(name="c", prompt=(Text(num_tokens=60_000, seed=3),), num_output_tokens=5)
    hopeless = Job(at_s=0.0, application=Application(kind="long", rounds=((long,),)))
    report, found = run(SimulationConfig(engines=(ENGINE,)), [hopeless, *some_jobs(2)])
    assert report.errors == {"context_overflow": 1}
    assert sorted(each.error or "" for each in found) == ["", "", "context_overflow"]


@pytest.mark.parametrize(
    "wrong",
    [{"engines": ()}, {"policy": "magic"}, {"max_concurrent": 0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SimulationConfig(**{"engines": (ENGINE,), **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("app", list(APPLICATIONS))
def test_each_application_of_the_paper_runs(app: str) -> None:
    workload = Workload(app=app, count=1)
    found = summary(simulate(CONFIG, workload.jobs()))
    assert found["num_applications"] == 1
    assert found["errors"] == {}


def test_round_trips_are_like_those_that_were_measured() -> None:
    trip = measured_round_trip(stream(0, "round trips"))
    drawn = sorted(trip() for _ in range(10_000))
    assert drawn[0] >= 0.218
    assert drawn[-1] <= 0.345
    assert drawn[5000] == pytest.approx(0.238, abs=0.003)
    assert sum(drawn) / len(drawn) == pytest.approx(0.244, abs=0.002)


def arrivals() -> dict[str, Iterator[float]]:
    return {
        "poisson": poisson(stream(0, "p"), 4.0),
        "uniform": uniform(4.0),
        "bursts": bursts(stream(0, "b"), rate=4.0, size=8),
    }


@pytest.mark.parametrize("kind", ["poisson", "uniform", "bursts"])
def test_arrivals_come_in_order_at_their_rate(kind: str) -> None:
    times = list(islice(arrivals()[kind], 8000))
    assert times == sorted(times)
    assert len(times) / times[-1] == pytest.approx(4.0, rel=0.1)


def test_a_rate_of_nothing_brings_nothing() -> None:
    assert list(poisson(stream(0, "p"), 0.0)) == list(uniform(0.0)) == []


@pytest.mark.parametrize("reads", [("c9",), ("c0", "c0")])
def test_calls_that_do_not_fit_together_are_refused(reads: tuple[str, ...]) -> None:
    one = AppCall(name="c0", prompt=(Text(num_tokens=1, seed=1),), num_output_tokens=1)
    other = AppCall(
        name="c0" if len(reads) > 1 else "c1",
        prompt=tuple(Ref(call=name) for name in reads),
        num_output_tokens=1,
    )
    with pytest.raises(ValueError, match=r"c0|c9"):
        check_application([one, other])
