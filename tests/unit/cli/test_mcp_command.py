"""`parrot mcp` where the extra is not installed."""

import subprocess
import sys

WITHOUT_THE_EXTRA = """
import sys
sys.modules["mcp"] = None
sys.argv = ["parrot", *sys.argv[1:]]
from parrot.cli import main
sys.exit(main())
"""


def test_the_command_names_the_extra_that_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_EXTRA, "mcp"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'parrot-llm[mcp]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_its_help_needs_no_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_EXTRA, "mcp", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "PARROT_API_KEY" in done.stdout
