"""How commands print: data on standard output, everything for people only on standard error."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from parrot.cli.failures import Invocation

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Give a command `--json`; errors are then told as JSON as well."""

    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
        if isinstance(ctx.obj, Invocation):
            ctx.obj.json = value
        return value

    return click.option("--json", "as_json", is_flag=True, callback=remember, help="Print JSON.")(command)


def write_json(value: object) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def write_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns, aligned; numbers to the right. Prints the headers alone when there are no rows."""
    for line in table_lines(headers, rows):
        click.echo(line)


def table_lines(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of an aligned table."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(headers), *cells]) for i in range(len(headers))]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(headers))]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [list(headers), *cells]
    ]


def say(text: str) -> None:
    """Tell a person something; it is no data, so it goes to standard error."""
    click.echo(text, err=True)


def seconds(value: float) -> str:
    """A duration for people: `0.04 s`, `1.3 s`, `75 s`."""
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 60 else f"{value:.0f} s"


def _text(cell: object) -> str:
    if isinstance(cell, bool) or cell is None:
        return "-" if cell is None else str(cell).lower()
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)
