"""What watches a service while it gets bad input sees what it is for."""

import json
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
PROGRAM = """
import asyncio, sys, time
from pathlib import Path
from reliability.watch import Watch

watch = Watch(Path(sys.argv[1]))
sys.addaudithook(watch.hear)
exec("before = 1")

async def main():
    looking = asyncio.create_task(watch.look())
    await asyncio.sleep(0.05)
    watch.begin()
    import colorsys
    exec("x = 1")
    kept = b"x" * (64 << 20)
    time.sleep(0.5)
    await asyncio.sleep(0.05)
    watch.write()

asyncio.run(main())
"""


def test_code_that_is_run_and_a_loop_that_stands_still_are_seen_and_imports_are_not(tmp_path: Path) -> None:
    file = tmp_path / "seen.json"
    subprocess.run([sys.executable, "-c", PROGRAM, str(file)], cwd=TOOLS, check=True, timeout=60)
    seen = json.loads(file.read_text(encoding="utf-8"))
    assert seen["events"] == {"compile": 1, "exec": 1}
    assert seen["loop_lag_s"] > 0.4
    assert seen["memory_growth_bytes"] > 48 << 20
