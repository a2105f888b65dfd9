import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from parrot.cli.failures import Invocation
from parrot.cli.sim import sim
from parrot.errors import ConfigError
from parrot.sim.figures import FIGURES, OURS
from parrot.sim.trace import Trace, TraceCall


def run(*arguments: str) -> str:
    result = CliRunner().invoke(sim, list(arguments), obj=Invocation(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def run_json(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json"))
    return found


SMALL = ("--app", "chain", "--count", "2", "--policy", "fifo")


def test_two_policies_stand_side_by_side() -> None:
    found = run_json(*SMALL, "--engines", "2", "--against", "longest-prefix")
    assert [(each["policy"], each["client"]) for each in found["results"]] == [
        ("fifo", "graph"),
        ("longest-prefix", "requests"),
    ]
    assert found["speedup"] > 1
    assert all(each["num_applications"] == 2 for each in found["results"])


def test_the_table_shows_both_and_their_ratio() -> None:
    lines = run(*SMALL, "--against", "longest-prefix").splitlines()
    assert lines[0].split()[:2] == ["POLICY", "CLIENT"]
    assert lines[-1].startswith("speedup: ")


@pytest.mark.parametrize("arrivals", ["uniform", "burst", "closed"])
def test_arrivals_can_be_chosen(arrivals: str) -> None:
    found = run_json(*SMALL, "--arrivals", arrivals, "--concurrent", "1")
    assert found["results"][0]["num_applications"] == 2


def test_closed_arrivals_need_a_number() -> None:
    result = CliRunner().invoke(sim, [*SMALL, "--arrivals", "closed"], obj=Invocation())
    assert result.exit_code == 2
    assert "--concurrent" in result.output


def test_a_trace_is_replayed(tmp_path: Path) -> None:
    call = TraceCall(name="a", submitted_s=0.0, prompt_tokens=10, shared_tokens=0, output_tokens=5)
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(Trace(session_id="ses_1", calls=(call,)).to_json()), encoding="utf-8")
    found = run_json("--trace", str(path), "--policy", "fifo", "--count", "3")
    assert found["results"][0]["output_tokens"] == 15


@pytest.mark.parametrize(
    "arguments",
    [(), ("--trace", "nowhere.json"), (*SMALL, "--policy", "magic"), (*SMALL, "--cost", "nowhere.json")],
    ids=["nothing", "no trace", "policy", "cost"],
)
def test_what_cannot_be_simulated_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        CliRunner().invoke(sim, list(arguments), obj=Invocation(), catch_exceptions=False)


@pytest.fixture
def quick_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure 11a that takes no time."""
    figure = replace(
        FIGURES[0], points=(1.0, 2.0), paper={"vllm": (1.5, 9.0)}, run=lambda x: {OURS: 2.0, "vllm": 2.0 + x}
    )
    later = replace(figure, figure_id="11later", needs="a policy of tomorrow")
    for module in ("parrot.sim.paper", "parrot.cli.sim"):
        monkeypatch.setattr(f"{module}.FIGURES", (figure, later))


@pytest.mark.usefixtures("quick_figure")
def test_a_figure_is_run_and_written(tmp_path: Path) -> None:
    found = run_json("paper", "--only", "11a", "--no-plots", "--jobs", "1", "--out", str(tmp_path))
    assert found["figures"][0]["figure"] == "11a"
    assert json.loads((tmp_path / "sim-paper.json").read_text(encoding="utf-8")) == found


@pytest.mark.usefixtures("quick_figure")
def test_figures_are_shown_beside_the_papers(tmp_path: Path) -> None:
    lines = run("paper", "--only", "11", "--no-plots", "--jobs", "1", "--out", str(tmp_path)).splitlines()
    assert lines[0].split() == ["FIGURE", "AT", "AGAINST", "PAPER", "OURS", "WITHIN", "20", "%"]
    assert [line.split()[-1] for line in lines[1:3]] == ["yes", "no"]
    assert lines[3].endswith("not yet: needs a policy of tomorrow")
