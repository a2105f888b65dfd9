import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from parrot.core.policies import POLICIES
from parrot.errors import ConfigError
from parrot.sim import fair, figures, plots
from parrot.sim.figures import FIGURES
from parrot.sim.paper import PaperResults, chosen_figures, run_paper, write_results


@pytest.mark.parametrize("figure_id", ["11a", "13a", "14", "15a"])
def test_a_figure_comes_within_a_fifth_of_the_paper(figure_id: str) -> None:
    results = run_paper([figure_id])
    assert [row for row in results.rows if row.agrees is False] == []
    assert len({row.point for row in results.rows}) == 4


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


def test_progress_is_told_from_nothing_on() -> None:
    told: list[float] = []
    run_paper(["11a"], on_progress=lambda _, done: told.append(done))
    assert told == [0.0, 0.25, 0.5, 0.75]


def test_results_are_written_as_they_are(tmp_path: Path) -> None:
    results = run_paper(["11a"])
    path = tmp_path / "new" / "sim-paper.json"
    write_results(results, path)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(results.to_json()))
    assert found["policy"] in POLICIES


def test_the_fair_set_compares_with_and_without_a_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    small = fair.FairWorkload(app="chain", count=2, rate=0.5)
    monkeypatch.setattr("parrot.sim.paper.WORKLOADS", (small,))
    results = run_paper(["fair"])
    assert [(row.app, row.round_trip_s) for row in results.fair] == [
        ("chain", 0.0),
        ("chain", 0.0),
        ("chain", 0.244),
        ("chain", 0.244),
    ]
    assert results.fair[2].ratio > results.fair[0].ratio


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


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs the extra plots")
def test_plots_are_drawn_for_what_was_run(tmp_path: Path) -> None:
    paths = plots.draw_paper(run_paper(["11b"]), tmp_path)
    assert [path.name for path in paths] == ["sim-11b.png", "sim-11b.svg"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert "Figure 11b" in paths[1].read_text(encoding="utf-8")
