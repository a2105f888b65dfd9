"""The campaign: every scenario of a tier, its findings in one file, the page from that."""

import argparse
import asyncio
import errno
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from parrot.bench.origin import commit, machine, versions
from reliability import bad_input, canaries, fuzzing, leaving, postgres_server, shim
from reliability.clients import cut_streams, rolling_restarts
from reliability.crash_points import CRASH_POINTS
from reliability.faults import (
    bad_call,
    clock_jumps,
    disk_error,
    engine_signals,
    failing_fsync,
    locked_database,
    no_descriptors,
    stopped_and_continued,
)
from reliability.findings import Finding
from reliability.lives import crash_points, postgres_crash_points, postgres_kills, random_kills
from reliability.page import write_page
from reliability.tenants import overload, timing

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "reliability.json"
LONG_RESULTS = RESULTS.with_name("reliability-long.json")
PAGE = ROOT / "docs" / "explanation" / "reliability.md"
PACKAGES = ("sqlalchemy", "psycopg", "uvicorn", "httpx2")

Run = Callable[[Path], Awaitable[Finding]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario and what it needs."""

    name: str
    run: Run
    missing: str | None = None
    """Why it cannot run here."""


def scenarios(tier: str, share: float = 1.0) -> list[Scenario]:
    """The scenarios of a tier: `ci` takes minutes, `hour` about an hour, or a share of it."""
    long = tier == "hour"

    def times(short: int, in_an_hour: int) -> int:
        return max(short, round(share * in_an_hour)) if long else short

    passages = (1, 3, 7) if long else (2,)
    no_shim, no_postgres = shim.missing(), postgres_server.missing()
    return [
        Scenario("random kills", lambda d: random_kills(d, num_kills=times(16, 600))),
        Scenario("crash points", lambda d: crash_points(d, points=CRASH_POINTS, passages=passages)),
        Scenario("postgres", lambda d: postgres_kills(d, num_rounds=times(5, 100)), no_postgres),
        Scenario("postgres crash points", lambda d: postgres_crash_points(d, passages=passages), no_postgres),
        Scenario("locked database", locked_database),
        Scenario("full disk", lambda d: disk_error(d, errno.ENOSPC), no_shim),
        Scenario("read-only disk", lambda d: disk_error(d, errno.EROFS), no_shim),
        Scenario("fsync", failing_fsync, no_shim),
        Scenario("clock", clock_jumps, no_shim),
        Scenario("stopped", stopped_and_continued),
        Scenario("descriptors", no_descriptors),
        Scenario("killed engines", lambda d: engine_signals(d, signal.SIGKILL, rounds=times(4, 40))),
        Scenario("stopped engines", lambda d: engine_signals(d, signal.SIGSTOP, rounds=times(2, 20))),
        Scenario("poison", lambda d: bad_call(d, "exit")),
        Scenario("hang", lambda d: bad_call(d, "hang")),
        Scenario("streams", lambda d: cut_streams(d, step=1)),
        Scenario("leaving", lambda d: leaving.leaving(d, rounds=times(40, 200))),
        Scenario("restarts", lambda d: rolling_restarts(d, num_restarts=times(6, 100))),
        Scenario(
            "made-up requests",
            lambda d: fuzzing.made_up_requests(d, duration_s=times(40, 600)),
            fuzzing.missing(),
        ),
        Scenario("bad input", lambda d: bad_input.catalogue(d, rounds=times(2, 20)), bad_input.missing()),
        Scenario("secrets", canaries.secrets, canaries.missing()),
        Scenario("overload", lambda d: overload(d, level_s=20.0 if long else 5.0)),
        Scenario("timing", lambda d: timing(d, num_pairs=times(250, 500))),
    ]


async def run_one(scenario: Scenario) -> dict[str, Any]:
    """Run one scenario in a directory of its own; what it raises is a finding too."""
    began_s = time.monotonic()
    if scenario.missing is not None:
        finding = Finding(scenario=scenario.name, promise="", faults={}, skipped=scenario.missing)
    else:
        with tempfile.TemporaryDirectory(prefix="parrot-reliability-") as directory:
            try:
                finding = await scenario.run(Path(directory))
            except Exception as error:  # noqa: BLE001 - one scenario's failure is its own finding
                problem = f"{type(error).__name__}: {error}"
                finding = Finding(scenario=scenario.name, promise="", faults={}, problems=(problem,))
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "name": scenario.name,
        **finding.to_json(),
        "seconds": round(time.monotonic() - began_s, 1),
        "made_at": made_at,
    }


def campaign(tier: str, only: tuple[str, ...], share: float) -> Iterator[dict[str, Any]]:
    """Run a tier's scenarios one after the other; gives all results so far after each."""
    found, began_s, source = [], time.monotonic(), commit()
    for scenario in scenarios(tier, share):
        if only and scenario.name not in only:
            continue
        finding = asyncio.run(run_one(scenario))
        state = "skipped" if finding["skipped"] else "kept" if finding["kept"] else "BROKEN"
        print(f"{state:8}{finding['seconds']:7.1f} s  {scenario.name}", file=sys.stderr, flush=True)
        for line in _complaints(finding):
            print(f"          {line}", file=sys.stderr, flush=True)
        found.append({**finding, "commit": None if source is None else source.commit})
        yield {
            "kind": "reliability",
            "tier": tier,
            "share": share,
            "seconds": round(time.monotonic() - began_s),
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": None if source is None else asdict(source),
            "machine": asdict(machine()),
            "versions": versions(PACKAGES),
            "load_average": round(os.getloadavg()[0], 1),
            "findings": found,
        }


def _complaints(finding: Mapping[str, Any]) -> Iterator[str]:
    yield from finding["problems"]
    for zero in finding["zeros"]:
        if zero["count"]:
            yield f"{zero['what']}: {zero['count']} of {zero['of']}"
    for floor in finding["floors"]:
        if floor["count"] < floor["at_least"]:
            yield f"{floor['what']}: {floor['count']}, which is below {floor['at_least']}"


def _replaced(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Any]:
    """The findings of an earlier run, with those that were made again in their places."""
    again = {finding["name"]: finding for finding in now["findings"]}
    known = [again.pop(finding.get("name"), finding) for finding in before["findings"]]
    return [*known, *again.values()]


def read_results(path: Path) -> Any:
    """A results file; None when there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main() -> None:
    """Run the campaign, or render its page from the results that are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tier", choices=("ci", "hour"), default="ci")
    parser.add_argument(
        "--only", action="append", default=[], metavar="SCENARIO", help="this one; repeatable"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the hour, for fewer repetitions")
    parser.add_argument("--out", type=Path, help="the file to write; by default the tier's own")
    parser.add_argument("--page", action="store_true", help="only render the page")
    arguments = parser.parse_args()
    out = arguments.out or (LONG_RESULTS if arguments.tier == "hour" else RESULTS)
    if not arguments.page:
        before = read_results(out) if arguments.only else None
        out.parent.mkdir(parents=True, exist_ok=True)
        for made in campaign(arguments.tier, tuple(arguments.only), arguments.share):
            results = made if before is None else {**before, "findings": _replaced(before, made)}
            out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    results = json.loads(out.read_text(encoding="utf-8"))
    if out in (RESULTS, LONG_RESULTS):
        PAGE.write_text(write_page(read_results(RESULTS), read_results(LONG_RESULTS)), encoding="utf-8")
    broken = [finding["scenario"] for finding in results["findings"] if not finding["kept"]]
    sys.exit(f"not kept: {', '.join(broken)}" if broken else 0)
