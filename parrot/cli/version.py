"""`parrot version`."""

import platform
from importlib import metadata

import click

from parrot import __version__
from parrot.cli.output import json_option, write_json

PARTS = ("torch", "transformers", "fastapi", "sqlalchemy", "pydantic")


@click.command()
@json_option
def version(*, as_json: bool) -> None:
    """Print the versions of Parrot, Python and the parts that matter."""
    versions = {"parrot": __version__, "python": platform.python_version()}
    for part in PARTS:
        try:
            versions[part] = metadata.version(part)
        except metadata.PackageNotFoundError:
            versions[part] = "not installed"
    if as_json:
        write_json(versions)
        return
    for name, number in versions.items():
        click.echo(f"{name:<14}{number}")
