"""`parrot demo`."""

from pathlib import Path

import click

from parrot.cli.failures import Invocation
from parrot.cli.options import engine_options
from parrot.cli.output import json_option


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@engine_options
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1, 20), help="Runs of each.")
@json_option
@click.pass_obj
def demo(
    invocation: Invocation,
    /,
    *,
    files: tuple[Path, ...],
    model: str | None,
    engine: str | None,
    repeat: int,
    as_json: bool,
) -> None:
    """Watch three applications run inside the service, and what that saves.

    A map-reduce summary, a chain summary and a coding team are given to a service in this process, whole;
    then the same calls are made one by one, as clients of a completions API do. The document is FILE (several
    are joined), or Parrot's own documentation.
    """
    from parrot.cli.demo.show import show
    from parrot.cli.logs import configure_logs

    configure_logs("debug" if invocation.debug else "warning")
    show(files, model=model, engine=engine, repeat=repeat, as_json=as_json)
