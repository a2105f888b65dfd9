import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import fmean
from typing import get_args

import pytest

from parrot.core.policies import POLICIES
from parrot.core.service_config import Ingredient
from parrot.errors import ConfigError
from parrot.sim import ablations, fair, figures, plots
from parrot.sim.figures import FIGURES, OURS, TOLERANCE, Figure
from parrot.sim.paper import PaperResults, chosen_figures, run_paper, write_results
from parrot.sim.simulation import Job, SimulationConfig, simulate
from parrot.sim.workloads import single_call


@pytest.mark.parametrize(("figure_id", "point"), [("11a", 50.0), ("13a", 50.0), ("14", 16.0), ("17", 8.0)])
def test_a_figure_comes_within_a_fifth_of_the_paper(figure_id: str, point: float) -> None:
    figure = next(figure for figure in FIGURES if figure.figure_id == figure_id)
    values = figure.run(point)
    index = list(figure.points).index(point)
    far = {
        name: values[name] / values[OURS]
        for name, ratios in figure.paper.items()
        if (paper := ratios[index]) is not None and abs(values[name] / values[OURS] / paper - 1) > TOLERANCE
    }
    assert far == {}


def test_every_figure_has_the_papers_number_for_each_base_line_at_each_point() -> None:
    wrong = [f.figure_id for f in FIGURES for row in f.paper.values() if len(row) != len(f.points)]
    assert wrong == []
    assert len({figure.figure_id for figure in FIGURES}) == len(FIGURES)


def test_figures_are_chosen_by_the_beginning_of_their_names() -> None:
    chosen, with_fair = chosen_figures(["15", "fair"])
    assert [figure.figure_id for figure in chosen] == ["15a", "15b"]
    assert with_fair


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ConfigError):
        run_paper(["99"])


def test_a_figure_whose_policy_is_missing_is_listed_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    later = replace(FIGURES[0], figure_id="later", needs="a policy of tomorrow")
    monkeypatch.setattr("parrot.sim.paper.FIGURES", (later,))
    results = run_paper(["later"])
    assert (results.rows, results.not_yet) == ((), (later,))
    assert results.to_json()["figures"][0]["state"] == "not yet"  # type: ignore[index]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The only figure there is: quick, and with everything that a figure has."""
    figure = replace(
        FIGURES[0],
        figure_id="quick",
        points=(1.0, 2.0),
        paper={"vllm": (1.5, None)},
        run=lambda point: {OURS: 2.0, "vllm": 2.0 + point},
    )
    for module in ("paper", "plots"):
        monkeypatch.setattr(f"parrot.sim.{module}.FIGURES", (figure,))
    return figure


def test_a_row_has_both_ratios_and_whether_they_agree(small: Figure) -> None:
    rows = run_paper([small.figure_id]).rows
    assert [(row.point, row.paper, row.ours, row.agrees) for row in rows] == [
        (1.0, 1.5, 1.5, True),
        (2.0, None, 2.0, None),
    ]


@pytest.mark.usefixtures("small")
def test_progress_is_told_from_nothing_on() -> None:
    told: list[float] = []
    run_paper(["quick"], on_progress=lambda _, done: told.append(done))
    assert told == [0.0, 0.5]


@pytest.mark.usefixtures("small")
def test_results_are_written_as_they_are(tmp_path: Path) -> None:
    results = run_paper(["quick"])
    path = tmp_path / "new" / "sim-paper.json"
    write_results(results, path)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(results.to_json()))
    assert found["policy"] in POLICIES


def test_the_fair_set_compares_with_and_without_a_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    small = fair.FairWorkload(app="chain", count=2, rate=0.5)
    monkeypatch.setattr("parrot.sim.paper.WORKLOADS", (small,))
    results = run_paper(["fair"])
    ratios = {(row.against, row.round_trip_s): row.ratio for row in results.fair}
    names = set(fair.BASE_POLICIES)
    own = {name + fair.OWN_ATTENTION for name in names}
    assert set(ratios) == {(n, 0.0) for n in names | own} | {(n, 0.244) for n in names}
    assert all(ratios[name, 0.244] > ratios[name, 0.0] for name in names)


def test_in_a_mix_the_kind_that_is_named_is_measured() -> None:
    chat = fair.FairWorkload(app="mixed", count=12, rate=2.0, measured="chat")
    bulk = replace(chat, measured="mapreduce")
    config = fair.ours(0.0)
    assert (chat.name, bulk.name) == ("chat in a mix, light load", "mapreduce in a mix, light load")
    assert chat.jobs() == bulk.jobs()
    report = simulate(config, chat.jobs())
    assert fair.mean_jct_s(config, chat) == fmean(report.jct_s["chat"])
    assert fair.mean_jct_s(config, bulk) == fmean(report.jct_s["mapreduce"])


def test_hints_put_requests_that_somebody_waits_for_before_others() -> None:
    """One request of each kind at a time fits; the one in bulk came first."""
    bulk, chat = (
        single_call(kind, system=None, query_tokens=500, output_tokens=50, rng=Random(number))
        for number, kind in enumerate(("bulk", "chat"))
    )
    engine = replace(figures.engine("a100-80g-13b"), max_batch=1)
    jobs = [Job(at_s=0.0, application=replace(bulk, objective="throughput")) for _ in range(4)]
    jobs.append(Job(at_s=0.1, application=chat))
    config = SimulationConfig(engines=(engine,), policy="priority-hints", client="requests", hints=True)
    hinted, unhinted = simulate(config, jobs), simulate(replace(config, hints=False), jobs)
    assert hinted.jct_s["chat"][0] < unhinted.jct_s["chat"][0] / 2


def test_ablations_switch_off_one_thing_at_a_time(tmp_path: Path) -> None:
    workload = fair.FairWorkload(app="copilot", count=12, rate=5.0, load="heavy")
    told: list[str] = []
    rows = ablations.run_ablations([workload], on_progress=lambda label, _: told.append(label))
    assert told[0] == "copilot, heavy load"
    assert "copilot, heavy load, without sharing" in told
    others = {ablations.AHEAD, ablations.GRAPHS, ablations.ATTENTION}
    assert set(rows[0].without) == {*get_args(Ingredient), *others}
    assert rows[0].without["sharing"] > 1.1
    assert rows[0].without[ablations.ATTENTION] > 1.0
    ablations.write_ablations(rows, tmp_path / "new" / "sim-ablations.json")
    found = json.loads((tmp_path / "new" / "sim-ablations.json").read_text(encoding="utf-8"))
    assert found["rows"] == [rows[0].to_json()]
    assert {workload.load for workload in ablations.heavy_workloads()} == {"heavy"}


def test_what_is_run_for_us_sends_whole_graphs_and_shares() -> None:
    engine = figures.engine("a100-80g-13b", kv_tokens=4096)
    ours, base = figures.ours(engine), figures.base(engine)
    assert (ours.client, ours.without, base.client, base.without) == ("graph", (), "requests", ("sharing",))
    assert engine.num_blocks == 256


def test_plots_without_their_library_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="plots") as caught:
        plots.draw_paper(PaperResults(rows=(), fair=(), not_yet=()), Path("nowhere"))
    assert caught.value.code == "missing_extra"


@pytest.mark.usefixtures("small")
@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs the extra plots")
def test_plots_are_drawn_for_what_was_run(tmp_path: Path) -> None:
    paths = plots.draw_paper(run_paper(["quick"]), tmp_path)
    assert [path.name for path in paths] == ["sim-quick.png", "sim-quick.svg"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert "Figure quick" in paths[1].read_text(encoding="utf-8")


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs the extra plots")
def test_the_table_of_ablations_is_drawn(tmp_path: Path) -> None:
    row = ablations.AblationRow(
        app="chain, heavy load", seconds=2.0, without={"groups": 1.25, "sharing": 3.0}
    )
    paths = plots.draw_ablations([row], tmp_path)
    assert [path.name for path in paths] == ["sim-ablations.png", "sim-ablations.svg"]
    assert "1.25" in paths[1].read_text(encoding="utf-8")
