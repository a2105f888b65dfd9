"""The service is killed at random and at named instants; the campaign's own scenarios, in small."""

from pathlib import Path

import pytest
from reliability.lives import crash_points, random_kills

POINTS = (
    "before_append:calls_submitted",
    "in_transaction:calls_submitted",
    "after_commit:calls_submitted",
    "before_reply:submit",
    "after_commit:variable_ready",
    "recovery:session",
)
"""Those at which most has been lost elsewhere; `make reliability` takes them all."""


@pytest.mark.slow
async def test_nothing_is_lost_at_named_instants(tmp_path: Path) -> None:
    """Invariant S4, seen from outside."""
    finding = await crash_points(tmp_path, points=POINTS)
    assert finding.kept, finding


@pytest.mark.slow
async def test_what_was_acknowledged_survives_kills_at_random_instants(tmp_path: Path) -> None:
    finding = await random_kills(tmp_path, num_kills=6)
    assert finding.kept, finding
