"""`parrot sim speed` measures what it says, on a small scale."""

import json
from pathlib import Path

from click.testing import CliRunner

from parrot.cli.root import cli


def test_it_measures_and_writes_everything(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    arguments = ["sim", "speed", "--engines", "2", "--calls", "30", "--live", "50", "--repeats", "2"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(out), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(out.read_text())
    assert json.loads(result.stdout) == report
    assert {each["app"] for each in report["simulated"]} == {"mapreduce", "chain", "chat"}
    assert all(each["calls_per_cpu_s"] > 0 and each["num_calls"] > 0 for each in report["simulated"])
    assert report["rounds"]["num_waiting"] == 1000
    assert report["live"][0]["num_live"] == 50
    assert report["machine"]["num_cpus"] >= 1
