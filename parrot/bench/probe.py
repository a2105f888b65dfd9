"""A process that asks a service for its health again and again, until its standard input ends.

Then it prints one line: the seconds that each answer took, as a JSON list. A process of its own, so that what
the measuring program is busy with does not count as the service's time.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from parrot.bench.control.connection import connected
from parrot.ports.clock import Clock, SystemClock

INTERVAL_S = 0.05


@asynccontextmanager
async def probed(url: str) -> AsyncIterator[list[float]]:
    """Probe a service while the block runs; afterwards the list holds the seconds of all answers."""
    found: list[float] = []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield found
    finally:
        output, _ = await process.communicate(b"")
        found.extend(json.loads(output) if output else [])


async def main(url: str, clock: Clock) -> list[float]:
    """Ask until standard input ends."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    ended = asyncio.create_task(reader.read())
    times = []
    async with connected(url) as connection:
        while not ended.done():
            began_s = clock.now_s()
            await connection.request("GET", "/healthz")
            times.append(clock.now_s() - began_s)
            await asyncio.wait((ended,), timeout=INTERVAL_S)
    transport.close()
    return times


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(sys.argv[1], SystemClock()))) + "\n")
