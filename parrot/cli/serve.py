"""`parrot serve`: applications over HTTP, until told to stop."""

from pathlib import Path

import click

from parrot.cli.failures import Invocation
from parrot.cli.options import ENGINE_KINDS
from parrot.cli.output import json_option

LOG_LEVELS = ("debug", "info", "warning", "error")


@click.command()
@click.option(
    "--model", metavar="DIR", help="A model directory in Hugging Face format, or a Hugging Face name."
)
@click.option("--name", metavar="NAME", help="The name under which calls ask for the model.")
@click.option("--engine", type=click.Choice(ENGINE_KINDS), help="What runs the model [torch].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where the model runs [auto].")
@click.option("--replicas", type=click.IntRange(1, 64), metavar="N", help="So many equal engines [1].")
@click.option("--host", metavar="ADDRESS", help="The address to listen on [127.0.0.1].")
@click.option("--port", type=int, metavar="N", help="The port to listen on; 0 takes a free one [8321].")
@click.option(
    "--db", metavar="FILE|URL", help="The store: an SQLite file, or postgresql+asyncpg://HOST/NAME."
)
@click.option(
    "--tls-cert", type=click.Path(path_type=Path, dir_okay=False), help="Speak HTTPS, with this chain."
)
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), help="The chain's private key.")
@click.option(
    "--config", "files", type=click.Path(path_type=Path), multiple=True, help="Read this file only."
)
@click.option(
    "--stop-after", type=click.FloatRange(min=0), metavar="SECONDS", help="Stop by itself, for trials."
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="warning", show_default=True)
@json_option
@click.pass_obj
def serve(
    invocation: Invocation,
    /,
    *,
    log_level: str,
    files: tuple[Path, ...],
    stop_after: float | None,
    as_json: bool,
    **options: str | int | Path | None,
) -> None:
    """Serve applications over HTTP.

    Ctrl-C once lets running calls end, twice stops at once; what was acknowledged is finished after the
    next start. With --json one line on standard output says where, when calls can be run.
    """
    from parrot.cli.logs import configure_logs
    from parrot.cli.serving import serve_until_stopped

    configure_logs("debug" if invocation.debug else log_level)
    serve_until_stopped(options, files=files, stop_after_s=stop_after, as_json=as_json)
