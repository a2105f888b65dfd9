"""`parrot bench migration`: versions as processes, and the link between them and the service."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from parrot.bench.migration import clients, suite
from parrot.bench.migration.link import Link
from parrot.bench.migration.records import VersionRun
from parrot.bench.migration.suite import MigrationPlan, summaries
from parrot.bench.report.files import ResultFile, Results
from parrot.bench.report.migration import migration
from parrot.cli.root import run
from parrot.ports.clock import SystemClock

SDK = tuple(version for version in clients.VERSIONS if version.name == "parrot_sdk")
ABSENT = clients.Version(name="absent", title="Absent", needs=("no_such_package",))


def test_versions_are_run_and_those_that_cannot_be_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "VERSIONS", (ABSENT, *SDK))
    out = tmp_path / "migration.json"
    arguments = ["--quick", "--engine", "scripted", "--rtt", "0.01", "--json", "--out", str(out)]
    assert run(["bench", "migration", *arguments]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["skipped"] == [{"version": "absent", "reason": "no_such_package is not installed"}]
    (summary,) = report["summaries"]
    assert (summary["version"], summary["gain"]) == ("parrot_sdk", 1.0)
    assert summary["num_round_trips"]["median"] <= 3
    assert summary["decoded_tokens"]["median"] == 16 + 4 * 20 + 2 * 30 + 2 * 40
    assert report["num_calls"] == 9
    page = migration(Results(migration=(ResultFile(name=out.name, content=json.loads(out.read_text())),)))
    assert "| Parrot SDK | 10 |" in page
    assert "absent was left out: no_such_package is not installed." in page


def test_what_cannot_be_run_is_a_usage_error(tmp_path: Path) -> None:
    assert run(["bench", "migration", "--clients", str(tmp_path), "--engine", "scripted"]) == 2
    assert run(["bench", "migration", "--out", str(tmp_path / "no" / "where"), "--engine", "scripted"]) == 2


def test_gains_are_those_over_the_first_version() -> None:
    def made(version: str, seconds: float) -> VersionRun:
        counts = {"num_requests": 1, "num_round_trips": 1, "prefilled_tokens": 5, "decoded_tokens": 5}
        return VersionRun(version=version, rtt_s=0.0, run=0, seconds=seconds, **counts)

    runs = [made("parrot_sdk", 2.0), made("openai_loop", 6.0), made("openai_hints", 3.0)]
    found = list(summaries(runs))
    assert [(one.version, one.gain) for one in found] == [
        ("openai_loop", 1.0),
        ("openai_hints", 2.0),
        ("parrot_sdk", 3.0),
    ]


def test_a_job_is_drawn_anew_for_each_run_and_again_for_the_same() -> None:
    plan = MigrationPlan()
    assert plan.num_calls == 27
    assert plan.job("a") == plan.job("a") != plan.job("b")


@asynccontextmanager
async def _far_server(rtt_s: float) -> AsyncIterator[Link]:
    """A server that answers whatever it is asked, behind a link."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            while (await reader.readline()).strip():
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Link(url, clock=SystemClock()).open() as link:
            link.rtt_s = rtt_s
            yield link


async def test_a_link_counts_requests_and_those_that_wait_for_others() -> None:
    async with _far_server(0.02) as link, httpx2.AsyncClient(base_url=link.url, timeout=30) as client:
        await client.get("/")
        link.begin()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await client.get("/one")
        await asyncio.gather(*(client.get("/two") for _ in range(5)))
        await client.get("/three")
        took = loop.time() - began
    assert (link.num_requests, link.num_round_trips) == (7, 3)
    assert took >= 3 * 0.02
