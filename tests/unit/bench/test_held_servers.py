"""A server that is held takes no part, and goes on where it was."""

import asyncio
import sys
from pathlib import Path

import pytest

from parrot.bench.processes import ServerProcess

TICKER = "import time\nwhile True:\n    print('tick', flush=True)\n    time.sleep(0.01)\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


async def _read_on(lines: asyncio.StreamReader) -> None:
    while await lines.readline():
        pass


async def test_a_held_server_stands_still_and_goes_on(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TICKER, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    server = ServerProcess(process, "http://127.0.0.1:1", tmp_path / "said.txt")
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"tick\n"
        server.hold()
        with pytest.raises(TimeoutError):  # what it said before is read, then nothing comes
            await asyncio.wait_for(_read_on(process.stdout), 0.5)
        server.go_on()
        async with asyncio.timeout(10):
            assert await process.stdout.readline() == b"tick\n"
    finally:
        process.kill()
        await process.wait()
