"""`parrot bench migration`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parrot.cli.output import json_option, say, seconds, write_json, write_table
from parrot.cli.results import check_out, moment, out_option, write_result
from parrot.ports.clock import SystemClock

if TYPE_CHECKING:
    from parrot.bench.migration.records import MigrationReport


@click.command("migration")
@click.option("--quick", is_flag=True, help="Fewer and smaller: a look, not a result.")
@click.option("--runs", type=click.IntRange(1, 1000), help="Of each version, at each round trip [3].")
@click.option(
    "--rtt", "rtts", type=click.FloatRange(0, 10), multiple=True, help="Round trips in seconds [0 0.25]."
)
@click.option(
    "--clients",
    metavar="VENV",
    type=click.Path(path_type=Path),
    help="An environment with Parrot, openai and LangChain, in which the versions run [this one].",
)
@click.option("--engine", type=click.Choice(["torch", "scripted"]), default="torch", show_default=True)
@click.option("--model", metavar="DIR", help="A model directory [bench-115m, random].")
@out_option
@json_option
def bench_migration(
    *,
    quick: bool,
    runs: int | None,
    rtts: tuple[float, ...],
    clients: Path | None,
    engine: str,
    model: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run one application in five versions, from an OpenAI client's plain loop to semantic functions.

    All run on one service that is started for it. See docs/reference/bench-migration.md.
    """
    from parrot.bench.migration.suite import MigrationPlan, MigrationRequest, run_migration
    from parrot.bench.migration.suite import quick as made_quick
    from parrot.bench.processes import run_to_end

    check_out(out)
    plan = made_quick(MigrationPlan()) if quick else MigrationPlan()
    plan = replace(plan, runs=runs or plan.runs, rtts_s=rtts or plan.rtts_s)
    directory = _model(model) if engine == "torch" else None
    request = MigrationRequest(plan=plan, engine=engine, model=directory, clients=clients)
    report = run_to_end(run_migration(request, clock=SystemClock(), tell=say))
    plain = asdict(report)
    write_result(out, f"migration-{moment(report.started_at)}", plain)
    if as_json:
        write_json(plain)
    else:
        _show(report)


def _model(model: str | None) -> Path:
    from parrot.assembly import find_model, random_model
    from parrot.engine.launch import need_torch

    need_torch()
    if model is not None:
        return find_model(model).resolve()
    return random_model(preset="bench-115m", on_progress=lambda _, phase, __: say(phase))


def _show(report: "MigrationReport") -> None:
    """A table for people."""
    write_table(
        ["VERSION", "RTT MS", "S", "GAIN", "REQUESTS", "ROUND TRIPS", "PREFILLED", "DECODED"],
        [
            [
                one.version,
                one.rtt_s * 1000,
                one.seconds.median,
                one.gain,
                one.num_requests.median,
                one.num_round_trips.median,
                one.prefilled_tokens.median,
                one.decoded_tokens.median,
            ]
            for one in report.summaries
        ],
    )
    for one in report.skipped:
        click.echo(f"{one.version} was left out: {one.reason}")
    click.echo(f"\n{seconds(report.duration_s)}")
