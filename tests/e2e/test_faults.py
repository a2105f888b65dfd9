"""Faults of disk and network around a real service; the campaign's own scenarios, in small."""

import errno
from pathlib import Path

import pytest
from reliability import shim
from reliability.clients import cut_streams, rolling_restarts
from reliability.faults import disk_error, failing_fsync

pytestmark = pytest.mark.slow


async def test_a_stream_that_is_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    finding = await cut_streams(tmp_path, step=97)
    assert finding.kept, finding


async def test_restarts_are_not_seen_by_applications(tmp_path: Path) -> None:
    finding = await rolling_restarts(tmp_path, num_restarts=2)
    assert finding.kept, finding


async def test_a_service_whose_disk_breaks_its_promise_ends_and_the_next_one_has_it_all(
    tmp_path: Path,
) -> None:
    if (reason := shim.missing()) is not None:
        pytest.skip(reason)
    finding = await failing_fsync(tmp_path, rounds=1)
    assert finding.kept, finding


async def test_a_disk_that_fails_to_write_stops_acknowledgements_until_it_writes_again(
    tmp_path: Path,
) -> None:
    if (reason := shim.missing()) is not None:
        pytest.skip(reason)
    finding = await disk_error(tmp_path, errno.EIO)
    assert finding.kept, finding
