"""The demo from its document to its report."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from parrot.assembly import NOISE
from parrot.cli.beside import service_beside
from parrot.cli.client import ServiceClient
from parrot.cli.demo.applications import APPLICATIONS, MAX_PIECE_CHARS, NUM_PIECES
from parrot.cli.demo.documents import Document, pieces, read_document
from parrot.cli.demo.measure import WAYS, Measured, Runner
from parrot.cli.demo.report import report_data, report_lines
from parrot.cli.demo.view import DemoView
from parrot.cli.output import say, seconds, write_json
from parrot.config import load_settings
from parrot.ports.clock import SystemClock
from parrot.wire.answers import EngineList, EngineView

REFRESH_S = 0.4
ENGINE_FACTS = ("kind", "model", "device", "dtype", "num_parameters", "kv_capacity_tokens", "description")


def show(files: Sequence[Path], *, model: str | None, engine: str | None, repeat: int, as_json: bool) -> None:
    """Run every application in every way, `repeat` times, and print the report.

    Raises:
        ConfigError: a file or the model cannot be used.
    """
    document = read_document(files)
    clock = SystemClock()
    began_s = clock.now_s()
    with service_beside(model=model, engine=engine) as url:
        read = f"{document.title}, {len(document.text):,} characters"
        say(f"document: {read}; service up after {seconds(clock.now_s() - began_s)}")
        with ServiceClient(url) as service:
            engines = service.get(EngineList, "/v1/engines").engines
            runs = asyncio.run(_run_all(service, document, repeat=repeat))
    note = _engine_note(engines[0], named=model is not None or bool(load_settings().settings.engines))
    if as_json:
        told = {"title": document.title, "characters": len(document.text)}
        engine_data = engines[0].model_dump(mode="json", include=set(ENGINE_FACTS))
        write_json({"document": told, "engine": engine_data, "note": note, **report_data(runs)})
        return
    click.echo()
    for line in report_lines(runs, note=note):
        click.echo(line)


def _engine_note(engine: EngineView, *, named: bool) -> str | None:
    """What must be known of the engine to judge the figures."""
    if engine.kind == "scripted":
        return "The scripted engine's work costs nothing: times are the service's own."
    return None if named else f"Random model: {NOISE}."


async def _run_all(service: ServiceClient, document: Document, *, repeat: int) -> list[Measured]:
    parts = pieces(document.text, num_pieces=NUM_PIECES, max_chars=MAX_PIECE_CHARS)
    console = Console(file=sys.stderr, highlight=False)
    runs: list[Measured] = []
    with DemoView(console) as view:
        refresh_s = REFRESH_S if console.is_terminal else None
        runner = Runner(service, clock=SystemClock(), parts=parts, watcher=view, refresh_s=refresh_s)
        view.warm_up()
        await runner.warm_up()
        for application in APPLICATIONS:
            num_calls = 0
            for _ in range(repeat):
                for way in WAYS:
                    view.begin(application, way)
                    measured = await runner.run(application, way, num_calls=num_calls)
                    num_calls = measured.num_calls
                    view.end(measured)
                    runs.append(measured)
    return runs
