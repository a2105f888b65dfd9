"""The whole catalogue of bad input against a process, beside tenants that behave well."""

from pathlib import Path

from reliability.bad_input import LATE, catalogue


async def test_bad_input_troubles_nobody_else_and_runs_nothing(tmp_path: Path) -> None:
    finding = await catalogue(tmp_path, rounds=1, alone_s=0.5)
    # How long a refusal takes is for a machine without other work, where the campaign looks at it.
    found = {zero.what: zero.count for zero in finding.zeros if zero.what != LATE}
    assert not any(found.values()), (found, finding.problems)
    assert finding.faults["bad or odd inputs"] > 200
    assert finding.figures["memory_growth_mib_max"] < 256
