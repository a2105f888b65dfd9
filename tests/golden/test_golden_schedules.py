"""A refactor replays these schedules unchanged; a change of policy changes them on purpose."""

import os
import subprocess
import sys
from difflib import unified_diff

import pytest
from golden_schedules import CASES, DIRECTORY, Case, schedule


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_schedule_is_the_one_that_was_written_down(case: Case) -> None:
    expected = case.path.read_text(encoding="utf-8")
    difference = unified_diff(
        expected.splitlines(), schedule(case).splitlines(), "written down", "now", lineterm="", n=1
    )
    shown = "\n".join(difference)
    assert not shown, f"\n{shown}\nmeant so? python tests/golden/golden_schedules.py"


def test_a_schedule_is_the_same_in_a_process_with_other_hashes() -> None:
    case = CASES[1]
    code = (
        f"from golden_schedules import CASES, schedule; print(schedule(CASES[{CASES.index(case)}]), end='')"
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": os.pathsep.join([str(DIRECTORY), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == schedule(case)
