"""The page *Reliability* is what the results file says, and the results say that the promises were kept."""

import json
from typing import Any

from project_files import ROOT
from reliability.campaign import LONG_RESULTS, read_results
from reliability.crash_points import CRASH_POINTS
from reliability.page import write_page


def _results() -> dict[str, Any]:
    path = ROOT / "benchmarks" / "results" / "reliability.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def test_the_page_is_rendered_from_the_results() -> None:
    page = ROOT / "docs" / "explanation" / "reliability.md"
    assert page.read_text(encoding="utf-8") == write_page(_results(), read_results(LONG_RESULTS))


def test_every_promise_was_kept_and_enough_happened_to_say_so() -> None:
    findings = _results()["findings"]
    assert [finding["scenario"] for finding in findings if not finding["kept"]] == []
    assert len(findings) >= 16


def test_every_crash_point_was_tried() -> None:
    dies = next(finding for finding in _results()["findings"] if "named instants" in finding["faults"])
    assert dies["faults"]["named instants"] == len(CRASH_POINTS)
    assert dies["faults"]["deaths there"] >= len(CRASH_POINTS)
