"""Secrets and prompts are said in every way, and looked for in all that the service wrote and told."""

import asyncio
import importlib
import signal
import sys
from pathlib import Path
from typing import Any

from reliability.findings import Finding, Floor, Zero

TESTS = Path(__file__).resolve().parents[2] / "tests" / "e2e"


def missing() -> str | None:
    """Why secrets cannot be looked for here; None when they can."""
    return None if (TESTS / "test_nothing_leaks.py").is_file() else "the tests are not here"


async def secrets(directory: Path) -> Finding:
    """Secrets and prompts are said in every way, and looked for in all that the service wrote and told."""
    sys.path.insert(0, str(TESTS))
    try:
        tests: Any = importlib.import_module("test_nothing_leaks")
    finally:
        sys.path.remove(str(TESTS))
    found = []
    for end in (signal.SIGTERM, signal.SIGABRT):
        place = directory / end.name
        place.mkdir()
        found.append(await asyncio.to_thread(_search, tests, end, place))
    hits = [hit for search in found for hit in search.hits]
    num_canaries = sum(search.num_canaries for search in found)
    return Finding(
        scenario="Secrets and prompts are looked for in what was written and told",
        promise="P15",
        faults={"secrets and prompts planted": num_canaries},
        zeros=(Zero(what="of these found where they must not be", count=len(hits), of=num_canaries),),
        floors=(Floor(what="bytes looked through", count=sum(s.num_bytes for s in found), at_least=100_000),),
        problems=tuple(hits),
    )


def _search(tests: Any, end: signal.Signals, directory: Path) -> Any:
    service = tests.Run(directory)
    try:
        service.await_ready()
        return tests.search(end, service, directory)
    finally:
        service.end(signal.SIGKILL)
