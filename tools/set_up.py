"""Make a virtual environment and install Parrot into it: `python3 tools/set_up.py VENV EXTRAS`.

Needs nothing but the standard library, and says clearly when Python itself is too old. pip's output goes to
`VENV/install.log`; the terminal sees one line for each step with its seconds, and the log's end when a step
fails.
"""

import subprocess
import sys
import time
from pathlib import Path

MIN_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
TAIL_LINES = 25


def say(text: str, *, end: str = "\n") -> None:
    """Print to stderr at once; stdout belongs to the command that runs after the set-up."""
    print(text, end=end, file=sys.stderr, flush=True)


def describe(line: str) -> str | None:
    """The few of pip's lines that tell a person how far it is."""
    words = line.split()
    if len(words) < 2:
        return None
    if words[0] == "Downloading":
        return f"downloading {words[1].rsplit('/', 1)[-1].split('-')[0]} {' '.join(words[2:])}"
    if words[0] == "Collecting":
        return f"looking up {words[1]}"
    if words[0] == "Installing" and words[1] == "collected":
        return "unpacking"
    return None


def step(title: str, command: list[str], log: Path) -> None:
    """Run one command, its output appended to `log`; exit with the log's end when it fails."""
    began = time.monotonic()
    live = sys.stderr.isatty()
    clear = "\r\x1b[K" if live else ""
    if not live:
        say(f"{title} …")
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        for line in process.stdout or ():
            file.write(line)
            doing = describe(line)
            if live and doing:
                say(f"{clear}{title}: {doing}"[:100], end="")
        status = process.wait()
    taken_s = time.monotonic() - began
    if status != 0:
        say(f"{clear}{title}: failed after {taken_s:.0f} s")
        say("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]))
        say(f"The whole output is in {log}.")
        sys.exit(1)
    say(f"{clear}{title}: done in {taken_s:.0f} s")


def main(venv: Path, extras: str) -> None:
    """Create `venv` if it is not there and install this checkout with `extras` into it."""
    if sys.version_info < MIN_PYTHON:
        have = ".".join(str(part) for part in sys.version_info[:3])
        need = ".".join(str(part) for part in MIN_PYTHON)
        say(f"Parrot needs Python {need} or later and {sys.executable} is {have}.")
        say("Name another one: make PYTHON=python3.12 …")
        sys.exit(1)
    python = venv / "bin" / "python"
    log = venv / "install.log"
    if not python.exists():
        made = subprocess.run([sys.executable, "-m", "venv", str(venv)], check=False, cwd=ROOT)
        if made.returncode != 0:
            sys.exit(made.returncode)
    log.write_text("", encoding="utf-8")
    install = [str(python), "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check"]
    step(
        f"Installing Parrot with [{extras}] into {venv.name} (once)",
        [*install, "-c", "constraints.txt", "-e", f".[{extras}]"],
        log,
    )


if __name__ == "__main__":
    main(ROOT / sys.argv[1], sys.argv[2])
