"""What `parrot serve` does: from settings to a service that listens, until it is told to stop."""

import asyncio
import gc
import json
import math
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import click
import uvloop

from parrot import __version__
from parrot.assembly import build_service, find_model
from parrot.cli.logs import log_fault
from parrot.cli.output import say
from parrot.cli.phases import Phases
from parrot.config import Loaded, Settings, load_settings
from parrot.config.directories import default_store, serve_defaults
from parrot.core.service import Service
from parrot.engine.launch import INSTALL_HINT
from parrot.errors import ConfigError, EngineError, ParrotError
from parrot.ports.clock import Clock, SystemClock
from parrot.server.app import create_app
from parrot.server.run import serve as serve_app
from parrot.server.watchdog import watched_loop
from parrot.wire.answers import EngineList, EngineView

OPTIONS = {
    "server.host": "host",
    "server.port": "port",
    "server.tls_cert": "tls_cert",
    "server.tls_key": "tls_key",
    "store.path": "db",
    "engines.main.kind": "engine",
    "engines.main.model_dir": "model",
    "engines.main.served_name": "name",
    "engines.main.device": "device",
    "engines.main.replicas": "replicas",
}
"""Dotted key → the option that sets it."""

COUNTDOWN_STEP_S = 1.0
COLLECTION_THRESHOLDS = (50_000, 20, 50)
"""Objects, and rounds of the younger generation, after which the cycle collector looks at a generation."""


def serve_until_stopped(
    options: Mapping[str, str | int | Path | None],
    *,
    files: tuple[Path, ...],
    stop_after_s: float | None,
    as_json: bool,
) -> None:
    """Serve with the options of the command line on top of the other settings.

    Raises:
        ConfigError: settings are wrong, the port is taken, or no engine can be started.
        StoreError: the store cannot be opened.
    """
    option_names = {key: f"--{name.replace('_', '-')}" for key, name in OPTIONS.items()}
    if options.get("engine") is None:
        option_names["engines.main.kind"] = "--model"  # it says so, too
    loaded = load_settings(
        _option_keys(options),
        option_names=option_names,
        files=files or None,
        defaults=serve_defaults(),
    )
    _warn(loaded)
    if loaded.settings.store.path == default_store():
        default_store().parent.mkdir(parents=True, exist_ok=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(loaded.settings, stop_after_s=stop_after_s, as_json=as_json))


def _option_keys(options: Mapping[str, str | int | Path | None]) -> dict[str, object]:
    """The options that were given, as dotted keys."""
    given = {key: options[name] for key, name in OPTIONS.items() if options[name] is not None}
    if "store.path" in given:
        given |= _store_keys(str(given["store.path"]))
    if "engines.main.model_dir" in given:
        if given.get("engines.main.kind") == "scripted":
            raise click.UsageError("the scripted engine takes no --model")
        _require_torch()
        given["engines.main.kind"] = "torch"
        given["engines.main.model_dir"] = str(find_model(str(given["engines.main.model_dir"])))
    return dict(given)


def _store_keys(db: str) -> dict[str, str | Path]:
    """What `--db` says, which goes before whatever else is set about the store."""
    if "://" not in db:
        return {"store.path": Path(db), "store.url": ""}
    if ":" in db.partition("://")[2].rpartition("@")[0]:
        say(
            "warning: others on this machine see the password in --db; put the address into PARROT_STORE__URL"
        )
    return {"store.path": default_store(), "store.url": db}


def _require_torch() -> None:
    if find_spec("torch") is None:
        raise ConfigError(INSTALL_HINT, code="missing_extra")


def _warn(loaded: Loaded) -> None:
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    if not loaded.settings.engines:
        say(
            "warning: no engine is configured, so calls will wait; "
            "name one with --model DIR, or --engine scripted"
        )


async def _serve(settings: Settings, *, stop_after_s: float | None, as_json: bool) -> None:
    asyncio.get_running_loop().set_exception_handler(log_fault)
    clock, stop = SystemClock(), asyncio.Event()
    with watched_loop(), Phases(clock=clock) as phases:
        service = await build_service(settings, on_progress=phases.show)
        try:
            await service.start()
            _spare_collections()
            app = create_app(service, settings.server, clock=clock)
            listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(_greet(service, phases, listening, settings, as_json=as_json))]
                beside.append(group.create_task(_end_with(service)))
                if stop_after_s is not None:
                    beside.append(group.create_task(_stop_later(clock, stop, stop_after_s)))
                await serve_app(
                    app,
                    settings.server,
                    on_ready=lambda host, port: listening.set_result(_address(settings, host, port)),
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
    try:
        if settings.engines:
            await service.wait_ready()
    except EngineError as error:
        say(f"warning: {error.message}; trying again")
    phases.close()
    if as_json:
        click.echo(json.dumps({"url": url, "pid": os.getpid(), "version": __version__}))
    for line in banner(url, service.engines()):
        say(line)


def banner(url: str, engines: EngineList) -> list[str]:
    """The lines that greet a user: the API, how to look inside, the documentation, and each engine."""
    return [
        f"{f'Parrot {__version__}':<14}{url}/v1   (process {os.getpid()})",
        f"{'graph':<14}parrot sessions ls, then parrot sessions graph ID",
        f"{'docs':<14}{url}/openapi.json",
        *(f"{engine.engine_id:<13} {_engine_text(engine)}" for engine in engines.engines),
    ]


def _engine_text(engine: EngineView) -> str:
    if engine.state != "up":
        return engine.state
    memory = f"KV for {engine.kv_capacity_tokens:,} tokens"
    if not engine.num_parameters:
        return f"{engine.model}, {memory}"
    size = f"{engine.num_parameters / 1e6:,.0f} M parameters, {engine.dtype}"
    return f"{engine.model} ({size}) on {engine.device}, {memory}"


def _address(settings: Settings, host: str, port: int) -> str:
    scheme = "http" if settings.server.tls_cert is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def _end_with(service: Service) -> None:
    """Do not go on listening for a service that works no more; whoever watches the process starts it again.

    Raises:
        ParrotError: the service has stopped by itself.
    """
    await service.wait_stopped()
    raise ParrotError(
        "the service has stopped by a fault of its own, which is in the log above; start it again"
    )


def _spare_collections() -> None:
    """Make the cycle collector's pauses rare: all that lives stands still in each of its full
    rounds, and sessions hardly ever leave cycles behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTION_THRESHOLDS)


async def _stop_later(clock: Clock, stop: asyncio.Event, delay_s: float) -> None:
    await clock.sleep(delay_s)
    stop.set()


async def _count_down(clock: Clock, timeout_s: float) -> None:
    """Tell how long the drain may still take; on a terminal in one line that changes each second."""
    if not sys.stderr.isatty():
        say(f"stopping: running calls have up to {timeout_s:.0f} s to end")
        return
    try:
        for left in range(math.ceil(timeout_s), 0, -1):
            text = f"\rstopping: {left:>3} s left for running calls; Ctrl-C again stops at once "
            click.echo(text, nl=False, err=True)
            await clock.sleep(COUNTDOWN_STEP_S)
    finally:
        click.echo(err=True)
