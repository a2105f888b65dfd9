"""`parrot run`: a Python program with a service beside it."""

import runpy
import sys
import traceback
from pathlib import Path
from types import TracebackType

import click

from parrot.cli.failures import EXIT_FAILED, Invocation
from parrot.cli.options import engine_options


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@engine_options
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(
    ctx: click.Context, *, model: str | None, engine: str | None, file: Path, arguments: tuple[str, ...]
) -> None:
    """Start a service inside this process and run FILE with ARGUMENTS.

    In FILE, `parrot.connect()` without an address reaches that service. What FILE raises is told as Python
    tells it, and the exit status is what Python's would be.
    """
    from parrot.cli.beside import service_beside
    from parrot.cli.logs import configure_logs
    from parrot.sdk.embedding import default_service

    debug = isinstance(ctx.obj, Invocation) and ctx.obj.debug
    configure_logs("debug" if debug else "warning")
    with service_beside(model=model, engine=engine) as url, default_service(url):
        failure = _run_program(file, arguments)
    if isinstance(failure, Exception):
        traceback.print_exception(failure.with_traceback(_within(failure, file)))
        ctx.exit(EXIT_FAILED)
    if failure is not None:
        raise failure


def _run_program(file: Path, arguments: tuple[str, ...]) -> BaseException | None:
    """Run the program as `python FILE` would; gives what it raised, which must not unwind the service."""
    sys.argv = [str(file), *arguments]
    sys.path.insert(0, str(file.parent))
    try:
        runpy.run_path(str(file), run_name="__main__")
    except BaseException as error:  # noqa: BLE001 - told by the caller, when the service is down
        return error
    return None


def _within(failure: Exception, file: Path) -> TracebackType | None:
    """The failure's traceback from the program's own first line on."""
    trace = failure.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != str(file):
        trace = trace.tb_next
    return trace
