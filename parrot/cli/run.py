"""`parrot run`: a Python program with a service beside it."""

import runpy
import sys
from pathlib import Path

import click

from parrot.cli.failures import Invocation
from parrot.cli.options import engine_options


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@engine_options
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(
    invocation: Invocation, *, model: str | None, engine: str | None, file: Path, arguments: tuple[str, ...]
) -> None:
    """Start a service inside this process and run FILE with ARGUMENTS.

    In FILE, `parrot.connect()` without an address reaches that service.
    """
    from parrot.cli.beside import service_beside
    from parrot.cli.logs import configure_logs
    from parrot.sdk.embedding import default_service

    configure_logs("debug" if invocation.debug else "warning")
    with service_beside(model=model, engine=engine) as url, default_service(url):
        sys.argv = [str(file), *arguments]
        sys.path.insert(0, str(file.parent))
        runpy.run_path(str(file), run_name="__main__")
