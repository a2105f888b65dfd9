"""`parrot bench report`: a page from result files, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from project_files import ROOT

from parrot.bench.report.files import read_results
from parrot.bench.report.headline import with_gains, with_headline
from parrot.bench.report.page import EXPECTED, render
from parrot.bench.report.targets import Target
from parrot.cli.root import run
from parrot.errors import ConfigError

RESULTS = ROOT / "benchmarks" / "results"


def test_the_committed_page_is_what_the_committed_results_give() -> None:
    assert (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8") == render(read_results(RESULTS))


def test_the_figures_in_the_readme_are_those_of_the_committed_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_headline(readme, read_results(RESULTS)) == readme


def test_the_gains_in_the_tutorial_are_those_of_the_committed_results() -> None:
    page = (ROOT / "docs" / "tutorials" / "migrating.md").read_text(encoding="utf-8")
    assert "| Parrot SDK | 250 |" in page
    assert with_gains(page, read_results(RESULTS)) == page


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(ConfigError, match="lacks"):
        with_headline("# A page\n", read_results(RESULTS))


def test_every_committed_result_is_shown() -> None:
    assert read_results(RESULTS).unknown == ()


def test_every_plot_on_the_page_is_there() -> None:
    page = render(read_results(RESULTS))
    named = [part.partition(")")[0] for part in page.split("](results/")[1:]]
    assert named
    assert [name for name in named if not (RESULTS / name).is_file()] == []


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (Target(bound=2.0, goal=3.0), 1.9, "missed"),
        (Target(bound=2.0, goal=3.0), 2.0, "reached"),
        (Target(bound=2.0, goal=3.0), 3.1, "goal reached"),
        (Target(bound=0.1, is_least=False), 0.1, "reached"),
        (Target(bound=0.1, is_least=False), 0.11, "missed"),
    ],
)
def test_a_target_judges_a_value(target: Target, value: float, verdict: str) -> None:
    assert target.verdict(value) == verdict


def _spread(value: float) -> dict[str, float]:
    return {"min": value - 0.1, "median": value, "max": value + 0.1, "num_repeats": 3}


def _side(name: str, jct_s: float) -> dict[str, Any]:
    nothing = dict.fromkeys(
        ("hit_rate", "prefilled_tokens", "ttft_s", "tpot_s", "normalised_latency_s", "goodput")
    )
    rates = {"jct_s": _spread(jct_s), "output_tokens_per_s": _spread(5.0)}
    return {"side": name, **rates, **nothing, "peak_kv_tokens": None, "streams": []}


def _apps_file(directory: Path, started_at: str, speedup: float, scale: float = 1.0) -> None:
    work = {
        "work": "chain",
        "rtt_s": 0.0,
        "rate": None,
        "sides": [_side("parrot", 2.0), _side("vllm", 2.0 * speedup)],
        "ratios": [{"side": "vllm", "speedup": _spread(speedup), "of_medians": speedup}],
    }
    content = {
        "schema": "parrot.bench.apps/1",
        "started_at": started_at,
        "plan": {"scale": scale, "bound_s": 0.1},
        "servers": [{"name": "vllm", "settings": {"version": "1"}}],
        "works": [work],
        "command": "parrot bench apps --work all --runs 3",
        "machine": None,
        "source": {"commit": "0123456789abcdef", "is_modified": True},
    }
    (directory / f"apps-{started_at[:10]}.json").write_text(json.dumps(content))


def test_a_loss_is_said_and_so_is_a_target_that_is_missed(tmp_path: Path) -> None:
    _apps_file(tmp_path, "2026-01-01T00:00:00+00:00", 0.8)
    lost = render(read_results(tmp_path))
    assert "chain, 0 ms, against vllm: slower, 0.80 times as fast" in lost
    assert "missed" in lost
    _apps_file(tmp_path, "2026-01-02T00:00:00+00:00", 1.3)
    assert "chain, 0 ms, against vllm: 1.30, and ≥ 1.4 (goal 2) is wanted" in render(read_results(tmp_path))


def test_the_newest_result_of_a_comparison_counts(tmp_path: Path) -> None:
    _apps_file(tmp_path, "2026-01-02T00:00:00+00:00", 2.5)
    _apps_file(tmp_path, "2026-01-01T00:00:00+00:00", 0.5)
    page = render(read_results(tmp_path))
    assert "**2.50 (2.40–2.60)**" in page
    assert "0.50 (" not in page
    assert "goal reached" in page


def test_targets_do_not_hold_for_other_sizes(tmp_path: Path) -> None:
    _apps_file(tmp_path, "2026-01-01T00:00:00+00:00", 1.3, scale=0.1)
    assert "missed" not in render(read_results(tmp_path))


def test_each_row_names_the_command_that_measures_it_again(tmp_path: Path) -> None:
    _apps_file(tmp_path, "2026-01-01T00:00:00+00:00", 1.3)
    assert "`parrot bench apps --work chain --runs 3`" in render(read_results(tmp_path))


def test_what_has_no_result_is_said_not_to_be_measured(tmp_path: Path) -> None:
    _apps_file(tmp_path, "2026-01-01T00:00:00+00:00", 1.3)
    page = render(read_results(tmp_path)).partition("## What was not measured")[2]
    assert all(text in page for kind, text in EXPECTED.items() if kind != "apps")
    assert EXPECTED["apps"] not in page


def test_a_page_that_differs_from_the_results_fails_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _apps_file(tmp_path, "2026-01-01T00:00:00+00:00", 1.3)
    page = tmp_path / "page.md"
    arguments = ["bench", "report", "--results", str(tmp_path), "--out", str(page), "--no-plots"]
    assert run(arguments) == 0
    assert run([*arguments, "--check"]) == 0
    page.write_text(page.read_text() + "and more\n")
    assert run([*arguments, "--check"]) == 2
    assert "is not what the results" in capsys.readouterr().err


def test_a_directory_without_results_is_refused(tmp_path: Path) -> None:
    assert run(["bench", "report", "--results", str(tmp_path), "--out", str(tmp_path / "page.md")]) == 2
