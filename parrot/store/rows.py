"""How a write transaction finds rows and puts them: by SQLAlchemy, or straight by SQLite's driver.

To run a statement that it knows, SQLAlchemy takes ten times as long as SQLite does, and a commit has nine of
them. So with SQLite it writes each statement's text once, and the driver is given that.

The driver lets other threads run at each step of a statement, and then waits its turn again. Rows are
therefore put many in a statement: one after the other, each would wait for whatever the event loop is doing.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from sqlalchemy import Column, Connection, Table, Update, bindparam, insert, select
from sqlalchemy.dialects import sqlite

MAX_IN = 8192
"""Values in one IN list; SQLite allows about four times as many, PostgreSQL eight."""
MAX_ROWS = 128
"""Rows in one INSERT of SQLite."""

Values = tuple[object, ...]


class Rows(Protocol):
    """The rows of one transaction's tables."""

    def find(self, column: Column[str], wanted: Sequence[Column[Any]], values: Iterable[str]) -> list[Values]:
        """What the `wanted` columns hold in the rows in which `column` has one of `values`."""
        ...

    def add(self, table: Table, rows: Sequence[Values]) -> None:
        """Insert rows, whose values are in the order of the table's columns; what is left out at the end has
        the column's own default.
        """
        ...

    def change(self, statement: Update, rows: Sequence[dict[str, object]]) -> None:
        """Run an update once for each of `rows`, its parameters by name."""
        ...


def rows_of(connection: Connection) -> Rows:
    """The rows that can be seen and written in a connection's transaction."""
    driver: object = connection.connection.dbapi_connection
    return SqliteRows(driver) if isinstance(driver, sqlite3.Connection) else ServerRows(connection)


class ServerRows:
    """`Rows` by SQLAlchemy, in any database."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, column: Column[str], wanted: Sequence[Column[Any]], values: Iterable[str]) -> list[Values]:
        """See `Rows.find`."""
        query = select(*wanted).where(column.in_(bindparam("values", expanding=True)))
        pieces = _pieces(list(values), MAX_IN)
        return [tuple(row) for piece in pieces for row in self._connection.execute(query, {"values": piece})]

    def add(self, table: Table, rows: Sequence[Values]) -> None:
        """See `Rows.add`."""
        names = table.columns.keys()
        if rows:
            self._connection.execute(insert(table), [dict(zip(names, row, strict=False)) for row in rows])

    def change(self, statement: Update, rows: Sequence[dict[str, object]]) -> None:
        """See `Rows.change`."""
        if rows:
            self._connection.execute(statement, rows)


class SqliteRows:
    """`Rows` by SQLite's driver, whose connection is in a transaction."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver

    def find(self, column: Column[str], wanted: Sequence[Column[Any]], values: Iterable[str]) -> list[Values]:
        """See `Rows.find`."""
        found: list[Values] = []
        for piece in _pieces(list(values), MAX_IN):
            # Widths are powers of two, so that there are few statements, and the driver knows them all.
            width = 1 << (len(piece) - 1).bit_length()
            padded = [*piece, *([piece[0]] * (width - len(piece)))]
            found += self._driver.execute(_find_text(column, tuple(wanted), width), padded)
        return found

    def add(self, table: Table, rows: Sequence[Values]) -> None:
        """See `Rows.add`."""
        start = 0
        while start < len(rows):
            count = min(MAX_ROWS, 1 << ((len(rows) - start).bit_length() - 1))
            values = [value for row in rows[start : start + count] for value in row]
            self._driver.execute(_insert_text(table, len(rows[start]), count), values)
            start += count

    def change(self, statement: Update, rows: Sequence[dict[str, object]]) -> None:
        """See `Rows.change`."""
        if rows:
            self._driver.executemany(_change_text(statement), rows)


def _pieces(values: Sequence[str], size: int) -> list[Sequence[str]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


_NAMED = sqlite.dialect(paramstyle="named")
_ORDERED = sqlite.dialect(paramstyle="qmark")


@lru_cache(maxsize=256)
def _find_text(column: Column[str], wanted: tuple[Column[Any], ...], width: int) -> str:
    matching = column.in_([bindparam(f"v{index}") for index in range(width)])
    return str(select(*wanted).where(matching).compile(dialect=_ORDERED))


@lru_cache(maxsize=256)
def _insert_text(table: Table, num_columns: int, num_rows: int) -> str:
    names = table.columns.keys()[:num_columns]
    text = str(insert(table).compile(dialect=_ORDERED, column_keys=names))
    head, values = text.rsplit(" VALUES ", 1)
    return f"{head} VALUES {', '.join([values] * num_rows)}"


@lru_cache(maxsize=16)
def _change_text(statement: Update) -> str:
    return str(statement.compile(dialect=_NAMED))
