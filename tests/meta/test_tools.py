"""The tools behind `make`."""

import subprocess
import sys
from pathlib import Path

import pytest
from project_files import ROOT


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_modules_and_functions_keep_to_their_size() -> None:
    done = _run("tools/check_size.py")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("x = 1\n" * 451, "451 lines of code (limit 450)"),
        ('"""A docstring,\nof two lines."""\n# a comment\n\n' + "x = 1\n" * 450, None),
        ("def f():\n" + "    x = 1\n" * 41, "41 statements (limit 40)"),
        ('def f():\n    """Says."""\n' + "    x = 1\n" * 40, None),
    ],
    ids=["long module", "module at its limit", "long function", "function at its limit"],
)
def test_the_size_check_counts_code_and_nothing_else(
    source: str, complaint: str | None, tmp_path: Path
) -> None:
    module = tmp_path / "measured.py"
    module.write_text(source, encoding="utf-8")
    done = _run("tools/check_size.py", str(module))
    assert done.returncode == (1 if complaint else 0), done.stderr
    assert complaint is None or complaint in done.stdout


def test_the_gate_refuses_a_check_that_it_does_not_know() -> None:
    done = _run("tools/check.py", "beauty")
    assert done.returncode == 2
    assert "no such gate: beauty" in done.stdout


def test_the_gate_passes_when_its_checks_do_and_tells_their_time() -> None:
    done = _run("tools/check.py", "docs")
    assert done.returncode == 0, done.stdout
    assert "all gates passed" in done.stdout
    assert " s)" in done.stdout
