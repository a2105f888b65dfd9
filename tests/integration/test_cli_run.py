"""`parrot run`: a program reaches the service beside it, and behaves as under Python itself."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = '''
import sys
import parrot
from parrot import Input, Output, semantic_function


@semantic_function(max_tokens=6)
def answer(question: Input, text: Output):
    """Question: {{question}} Answer: {{text}}"""


with parrot.connect_sync() as session:
    print(sys.argv[1:], len(answer(question="why?").get()) > 0)
if "fail" in sys.argv:
    raise LookupError("of the program's own")
sys.exit(7 if "leave" in sys.argv else 0)
'''


def run_program(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    return subprocess.run(
        [sys.executable, "-m", "parrot.cli", "run", "--engine", "scripted", "program.py", *arguments],
        cwd=tmp_path,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_connect_without_an_address_reaches_the_service_beside_the_program(tmp_path: Path) -> None:
    done = run_program(tmp_path, "--option", "x")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['--option', 'x'] True"


def test_what_the_program_raises_is_told_from_its_own_first_line(tmp_path: Path) -> None:
    done = run_program(tmp_path, "fail")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("LookupError: of the program's own")
    assert 'File "program.py"' in done.stderr
    assert "runpy" not in done.stderr


def test_the_programs_exit_status_is_the_commands(tmp_path: Path) -> None:
    assert run_program(tmp_path, "leave").returncode == 7
