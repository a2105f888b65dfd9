"""Results of measurements: on a terminal, and in files."""

import json
from pathlib import Path

import click

from parrot.cli.output import say
from parrot.errors import ConfigError

out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the JSON there as well; into a directory, under a name of its own.",
)
"""Gives a command `--out`; see `check_out` and `write_result`."""


def check_out(out: Path | None) -> None:
    """Tell before a measurement, and not after it, that its result could not be written.

    Raises:
        ConfigError: the directory is not there.
    """
    if out is not None and not out.is_dir() and not out.parent.is_dir():
        raise ConfigError(f"there is no directory {out.parent}", param="--out")


def write_result(out: Path | None, name: str, result: object) -> None:
    """Write a result as JSON to `out`, if there is one; into a directory as `name`.json."""
    if out is None:
        return
    file = out / f"{name}.json" if out.is_dir() else out
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    say(f"written to {file}")


def moment(started_at: str) -> str:
    """A time in ISO 8601 as names of files have it."""
    return started_at.partition("+")[0].replace("-", "").replace(":", "")
