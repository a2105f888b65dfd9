"""The gate: `python tools/check.py [GATE …]` runs every check, or the named ones, and tells each one's time.

A gate that fails shows its output; the others still run. Exit status 1 when any failed.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUICK_TESTS = ("unit", "property", "contract", "golden", "meta")


def _python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def _program(name: str, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).parent / name), *arguments]


def _quick_tests() -> list[str]:
    folders = [f"tests/{name}" for name in QUICK_TESTS if (ROOT / "tests" / name).is_dir()]
    return _python("-m", "pytest", "-q", *folders)


GATES: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "format": ("code is formatted", lambda: _program("ruff", "format", "--check", "--quiet", ".")),
    "lint": ("nothing to lint", lambda: _program("ruff", "check", "--quiet", ".")),
    "types": ("types are strict", lambda: _program("mypy")),
    "layers": ("imports point down", lambda: _program("lint-imports")),
    "sizes": ("modules and functions are small", lambda: _python("tools/check_size.py")),
    "docs": ("generated docs are current", lambda: _python("tools/write_reference.py", "--check")),
    "tests": ("quick tests pass", _quick_tests),
}


def run(name: str) -> bool:
    """Run one gate, print its line, and its output when it fails."""
    meaning, command = GATES[name]
    print(f"{name:<8} {meaning} … ", end="", flush=True)
    began = time.monotonic()
    done = subprocess.run(
        command(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(f"{'ok' if done.returncode == 0 else 'FAILED'} ({time.monotonic() - began:.1f} s)", flush=True)
    if done.returncode != 0:
        print(done.stdout.rstrip(), flush=True)
    return done.returncode == 0


def main(names: list[str]) -> int:
    """Run the gates and return the exit status."""
    unknown = [name for name in names if name not in GATES]
    if unknown:
        print(f"no such gate: {', '.join(unknown)}; there are {', '.join(GATES)}")
        return 2
    failed = [name for name in names or GATES if not run(name)]
    print(f"failed: {', '.join(failed)}" if failed else "all gates passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
