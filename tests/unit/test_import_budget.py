"""Importing the package stays quick and pulls in no heavy library."""

import json
import subprocess
import sys

import parrot

_PROGRAM = """
import json, sys, time
began = time.process_time()
import parrot
lazy_s = time.process_time() - began
if len(sys.argv) > 1:
    for name in parrot.__all__:
        getattr(parrot, name)
heavy = [m for m in ("torch", "transformers", "fastapi", "ray", "sqlalchemy", "numpy") if m in sys.modules]
print(json.dumps([lazy_s, heavy]))
"""


def run(*arguments: str) -> tuple[float, list[str]]:
    command = [sys.executable, "-c", _PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, heavy = json.loads(done.stdout)
    return seconds, heavy


def test_import_takes_at_most_250_ms_and_loads_nothing_heavy() -> None:
    runs = [run() for _ in range(3)]
    assert min(seconds for seconds, _ in runs) <= 0.25
    assert all(heavy == [] for _, heavy in runs)


def test_every_public_name_loads_without_a_heavy_library() -> None:
    _, heavy = run("all names")
    assert heavy == []


def test_public_names_are_listed_before_they_are_loaded() -> None:
    assert set(parrot.__all__) <= set(dir(parrot))
    assert not hasattr(parrot, "no_such_name")
