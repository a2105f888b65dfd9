"""`parrot serve`: applications over HTTP, until told to stop."""

import asyncio
import json
import math
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import click

from parrot import __version__
from parrot.assembly import build_service, data_directory, find_model
from parrot.cli.failures import Invocation
from parrot.cli.logs import LEVELS, configure_logs
from parrot.cli.output import json_option, say, seconds
from parrot.cli.phases import Phases
from parrot.config import Loaded, Settings, load_settings
from parrot.config.settings import ENGINE_KINDS
from parrot.core.service import Service
from parrot.errors import ConfigError, EngineError
from parrot.ports.clock import Clock, SystemClock
from parrot.server.app import create_app
from parrot.server.run import serve as serve_app
from parrot.wire.answers import EngineList, EngineView

INSTALL_LINES = (
    'pip install "parrot-llm[engine]"                          # with CUDA, the public index',
    'pip install "parrot-llm[engine]" --extra-index-url https://download.pytorch.org/whl/cpu   # CPU alone',
)


COUNTDOWN_STEP_S = 1.0


@click.command()
@click.option(
    "--model", metavar="DIR", help="A model directory in Hugging Face format, or a Hugging Face name."
)
@click.option("--name", metavar="NAME", help="The name under which calls ask for the model.")
@click.option("--engine", type=click.Choice(list(ENGINE_KINDS)), help="What runs the model [torch].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where the model runs [auto].")
@click.option("--replicas", type=click.IntRange(1, 64), metavar="N", help="So many equal engines [1].")
@click.option("--host", metavar="ADDRESS", help="The address to listen on [127.0.0.1].")
@click.option("--port", type=int, metavar="N", help="The port to listen on; 0 takes a free one [8321].")
@click.option("--db", type=click.Path(path_type=Path, dir_okay=False), help="The store's SQLite file.")
@click.option(
    "--config", "files", type=click.Path(path_type=Path), multiple=True, help="Read this file only."
)
@click.option(
    "--stop-after", type=click.FloatRange(min=0), metavar="SECONDS", help="Stop by itself, for trials."
)
@click.option("--log-level", type=click.Choice(LEVELS), default="warning", show_default=True)
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
    next start. With --json one line on standard output says when and where the service listens.
    """
    configure_logs("debug" if invocation.debug else log_level)
    loaded = load_settings(
        _option_keys(options),
        files=files or None,
        defaults={"store.path": str(data_directory() / "parrot.db")},
    )
    _warn(loaded)
    asyncio.run(_serve(loaded.settings, stop_after_s=stop_after, as_json=as_json))


def _option_keys(options: Mapping[str, str | int | Path | None]) -> dict[str, object]:
    """The options that were given, as dotted keys."""
    keys: dict[str, object] = {
        "server.host": options["host"],
        "server.port": options["port"],
        "store.path": str(options["db"]) if options["db"] is not None else None,
        "engines.main.replicas": options["replicas"],
        "engines.main.device": options["device"],
        "engines.main.served_name": options["name"],
        "engines.main.kind": options["engine"],
    }
    model = options["model"]
    if model is not None and options["engine"] != "scripted":
        _require_torch()
        keys["engines.main.kind"] = "torch"
        keys["engines.main.model_dir"] = str(find_model(str(model)))
    return {key: value for key, value in keys.items() if value is not None}


def _require_torch() -> None:
    if find_spec("torch") is None:
        raise ConfigError(
            "serving a model needs torch, which is not installed",
            code="missing_extra",
            data={"fix": "\n".join(INSTALL_LINES)},
        )


def _warn(loaded: Loaded) -> None:
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    if not loaded.settings.engines:
        say(
            "warning: no engine is configured, so calls will wait; "
            "name one with --model DIR, or --engine scripted"
        )


async def _serve(settings: Settings, *, stop_after_s: float | None, as_json: bool) -> None:
    clock, stop = SystemClock(), asyncio.Event()
    with Phases(clock=clock) as phases:
        service = await build_service(settings, on_progress=phases.show)
        try:
            await service.start()
            app = create_app(service, settings.server, clock=clock)
            listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(_greet(service, phases, listening, settings, as_json=as_json))]
                if stop_after_s is not None:
                    beside.append(group.create_task(_stop_later(clock, stop, stop_after_s)))
                await serve_app(
                    app,
                    settings.server,
                    on_ready=lambda host, port: listening.set_result(_address(host, port)),
                    on_drain=lambda: beside.append(
                        group.create_task(_count_down(clock, settings.server.drain_timeout_s))
                    ),
                    stop=stop,
                )
                for task in beside:
                    task.cancel()
        finally:
            await service.close()
    say("stopped")


async def _greet(
    service: Service, phases: Phases, listening: asyncio.Future[str], settings: Settings, *, as_json: bool
) -> None:
    """Say where the service listens, and what with, when an engine is up.

    Raises:
        ConfigError: no engine can be started as it is configured.
    """
    url = await listening
    if as_json:
        click.echo(json.dumps({"url": url, "pid": os.getpid(), "version": __version__}))
    try:
        if settings.engines:
            await service.wait_ready()
    except EngineError as error:
        say(f"warning: {error.message}; trying again")
    phases.close()
    for line in banner(url, service.engines(), store=settings.store.path):
        say(line)


def banner(url: str, engines: EngineList, *, store: object) -> list[str]:
    """The lines that greet a user: the API, how to look inside, the documentation, and each engine."""
    return [
        f"Parrot {__version__} serves {url}/v1  (process {os.getpid()}, state in {store})",
        "graph   parrot sessions ls, then parrot sessions graph ID",
        f"docs    {url}/openapi.json",
        *(f"engine  {_engine_line(engine)}" for engine in engines.engines),
    ]


def _engine_line(engine: EngineView) -> str:
    if engine.state != "up":
        return f"{engine.engine_id} is {engine.state}"
    size = f"{engine.num_parameters / 1e6:.0f} M parameters, {engine.dtype}"
    return f"{engine.engine_id}: {engine.model} ({size}) on {engine.device}, KV for {engine.kv_capacity_tokens:,} tokens"


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _stop_later(clock: Clock, stop: asyncio.Event, delay_s: float) -> None:
    await clock.sleep(delay_s)
    stop.set()


async def _count_down(clock: Clock, timeout_s: float) -> None:
    """Tell how long the drain may still take; on a terminal in one line that changes each second."""
    if not sys.stderr.isatty():
        say(f"draining: running calls have {seconds(timeout_s)} to end")
        return
    for left in range(math.ceil(timeout_s), 0, -1):
        click.echo(
            f"\rdraining: {left:>3} s left for running calls; Ctrl-C again stops at once ", nl=False, err=True
        )
        await clock.sleep(COUNTDOWN_STEP_S)
