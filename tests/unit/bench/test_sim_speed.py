"""`parrot sim speed` measures what it says, on a small scale."""

import json
from pathlib import Path

from click.testing import CliRunner

from parrot.cli.root import cli


def test_it_measures_and_writes_everything(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    arguments = ["sim", "speed", "--engines", "2", "--calls", "30", "--live", "50", "--repeats", "2"]
    arguments += ["--jobs", "2"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(out), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(out.read_text())
    assert json.loads(result.stdout) == report
    assert {each["app"] for each in report["simulated"]} == {"mapreduce", "chain", "chat"}
    assert all(each["calls_per_cpu_s"] > 0 and each["num_calls"] > 0 for each in report["simulated"])
    alone = {each["app"]: each["num_calls"] for each in report["simulated"]}
    assert {each["app"]: each["num_calls"] for each in report["together"]} == {
        app: 2 * num_calls for app, num_calls in alone.items()
    }
    assert all(each["calls_per_real_s"] > 0 and each["num_processes"] == 2 for each in report["together"])
    assert report["rounds"]["num_waiting"] == 1000
    assert report["live"][0]["num_live"] == 50
    assert report["machine"]["num_cpus"] >= 1


def test_a_long_run_comes_after_a_short_one_and_shows_what_memory_that_took(tmp_path: Path) -> None:
    arguments = ["sim", "speed", "--long", "440", "--out", str(tmp_path)]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "PEAK MIB" in result.stdout
    report = json.loads((tmp_path / "sim-long.json").read_text())
    short, long = report["long"]
    assert short["num_calls"] < long["num_calls"]
    assert short["rss_bytes"] <= long["rss_bytes"]
    assert (report["rounds"], report["live"], report["simulated"]) == (None, [], [])
