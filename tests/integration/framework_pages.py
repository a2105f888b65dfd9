"""Pages about frameworks: their programs, for the tests that run them."""

import subprocess
import sys
from pathlib import Path

from documents import blocks

DOCS = Path(__file__).parents[2] / "docs"


def run_page(page: str, url: str) -> str:
    """What a page's programs print, run one after the other in one process, on the service at `url`."""
    found = [b.code for b in blocks(DOCS / page) if b.language == "python" and "runs it" in (b.not_run or "")]
    program = "\n\n".join(found).replace("http://127.0.0.1:8321", url)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
