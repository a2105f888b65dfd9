"""The demo from its document to its report."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from parrot.cli.beside import service_beside
from parrot.cli.demo.applications import APPLICATIONS, MAX_PIECE_CHARS, NUM_PIECES
from parrot.cli.demo.documents import Document, pieces, read_document
from parrot.cli.demo.measure import WAYS, Measured, Runner
from parrot.cli.demo.report import report_data, report_lines
from parrot.cli.demo.view import DemoView
from parrot.cli.output import say, seconds, write_json
from parrot.ports.clock import SystemClock

REFRESH_S = 0.2


def show(files: Sequence[Path], *, model: str | None, engine: str | None, repeat: int, as_json: bool) -> None:
    """Run every application in every way, `repeat` times, and print the report.

    Raises:
        ConfigError: a file or the model cannot be used.
    """
    document = read_document(files)
    clock = SystemClock()
    began_s = clock.now_s()
    with service_beside(model=model, engine=engine) as url:
        started_s = clock.now_s() - began_s
        read = f"{document.title}, {len(document.text):,} characters"
        say(f"document: {read}; service up after {seconds(started_s)}")
        runs = asyncio.run(_run_all(url, document, repeat=repeat))
    noise = model is None
    if as_json:
        write_json(
            {"document": {"title": document.title, "characters": len(document.text)}, **report_data(runs)}
        )
        return
    click.echo()
    for line in report_lines(runs, noise=noise):
        click.echo(line)


async def _run_all(url: str, document: Document, *, repeat: int) -> list[Measured]:
    parts = pieces(document.text, num_pieces=NUM_PIECES, max_chars=MAX_PIECE_CHARS)
    console = Console(file=sys.stderr, highlight=False)
    runs: list[Measured] = []
    with DemoView(console) as view:
        refresh_s = REFRESH_S if console.is_terminal else None
        runner = Runner(url, clock=SystemClock(), parts=parts, watcher=view, refresh_s=refresh_s)
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
