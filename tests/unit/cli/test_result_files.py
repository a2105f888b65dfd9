"""`--out` of commands that measure: said early when it cannot be, and written under a name of its own."""

import json
from pathlib import Path

import pytest

from parrot.cli.results import moment, write_result
from parrot.cli.root import run


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("bench", name), id=name)
        for name in ("apps", "control", "engine", "migration", "scale", "soak")
    ]
    + [pytest.param(("sim", "speed"), id="sim-speed")],
)
def test_a_place_that_is_not_there_is_refused_before_measuring(
    command: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--out", str(tmp_path / "nowhere" / "result.json")]) == 2
    said = capsys.readouterr().err
    assert "there is no directory" in said
    assert said.startswith("error["), "something was measured before"


def test_a_result_goes_into_a_file_or_into_a_directory_under_its_name(tmp_path: Path) -> None:
    write_result(None, "unused", {})
    write_result(tmp_path, f"control-{moment('2026-01-02T03:04:05+00:00')}", {"a": 1})
    write_result(tmp_path / "mine.json", "unused", {"a": 2})
    found = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()}
    assert found == {"control-20260102T030405.json": {"a": 1}, "mine.json": {"a": 2}}
