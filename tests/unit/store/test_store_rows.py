"""Rows by SQLite's driver and by SQLAlchemy are the same rows."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, bindparam, create_engine, update

from parrot.store.rows import MAX_ROWS, Rows, ServerRows, SqliteRows, rows_of
from parrot.store.schema import ATTEMPTS, METADATA, SESSIONS

Make = Callable[[Connection], Rows]
NUM_ROWS = 2 * MAX_ROWS + 7
"""Not a whole number of statements."""


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path / 'rows.db'}")
    with engine.begin() as opened:
        METADATA.create_all(opened)
        yield opened
    engine.dispose()


@pytest.mark.parametrize("make", [rows_of, ServerRows])
def test_rows_that_were_added_are_found_by_any_number_of_values(connection: Connection, make: Make) -> None:
    rows = make(connection)
    rows.add(SESSIONS, [(1, "ses_1", 3, None, False, "tenant", 10)])
    rows.add(ATTEMPTS, [(f"call_{number}", 1, number) for number in range(NUM_ROWS)])
    for num_wanted in (0, 1, 2, 3, 200, NUM_ROWS):
        wanted = [f"call_{number}" for number in range(num_wanted)]
        found = rows.find(
            ATTEMPTS.c.call_id, (ATTEMPTS.c.call_id, ATTEMPTS.c.attempt), [*wanted, "call_unknown"]
        )
        assert sorted(found) == sorted((f"call_{number}", number) for number in range(num_wanted))
    assert rows.find(SESSIONS.c.session_id, (SESSIONS.c.tenant_id, SESSIONS.c.num_bytes), ["ses_1"]) == [
        ("tenant", 10)
    ]


@pytest.mark.parametrize("make", [rows_of, ServerRows])
def test_columns_that_are_left_out_have_their_defaults(connection: Connection, make: Make) -> None:
    rows = make(connection)
    rows.add(SESSIONS, [(1, "ses_1", 3, None, False)])
    wanted = (SESSIONS.c.closed_wall_s, SESSIONS.c.tenant_id, SESSIONS.c.num_bytes)
    assert rows.find(SESSIONS.c.session_id, wanted, ["ses_1"]) == [(None, "", 0)]


@pytest.mark.parametrize("make", [rows_of, ServerRows])
def test_an_update_runs_once_for_each_of_its_parameters(connection: Connection, make: Make) -> None:
    rows = make(connection)
    rows.add(SESSIONS, [(1, "ses_1", 3, None, False)])
    rows.add(ATTEMPTS, [("call_a", 1, 1), ("call_b", 1, 1), ("call_c", 1, 1)])
    raised = (
        update(ATTEMPTS).where(ATTEMPTS.c.call_id == bindparam("which")).values(attempt=bindparam("latest"))
    )
    rows.change(raised, [{"which": "call_a", "latest": 2}, {"which": "call_c", "latest": 5}])
    rows.change(raised, [])
    found = rows.find(
        ATTEMPTS.c.call_id, (ATTEMPTS.c.call_id, ATTEMPTS.c.attempt), ["call_a", "call_b", "call_c"]
    )
    assert sorted(found) == [("call_a", 2), ("call_b", 1), ("call_c", 5)]


def test_the_driver_is_used_where_it_is_sqlites(connection: Connection) -> None:
    assert isinstance(rows_of(connection), SqliteRows)
