"""`parrot bench soak`."""

import asyncio
from dataclasses import asdict
from pathlib import Path

import click

from parrot.cli.output import json_option, say, seconds, write_json, write_table
from parrot.cli.results import check_out, out_option, write_result
from parrot.ports.clock import SystemClock


@click.command("soak")
@click.option(
    "--minutes", default=10.0, show_default=True, type=click.FloatRange(0.05, 10_000), help="How long."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of all that is random.")
@click.option(
    "--model",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A model directory [a random model of the preset tiny].",
)
@out_option
@json_option
def bench_soak(*, minutes: float, seed: int, model: Path | None, out: Path | None, as_json: bool) -> None:
    """Random fork, fill, generate, cancel and free traffic on the torch engine with too little KV memory.

    Fails when a block leaks, the engine stalls, memory grows, or requests end as they should not.
    See docs/reference/bench.md.
    """
    from parrot.assembly import random_model
    from parrot.engine.launch import need_torch

    need_torch()
    check_out(out)
    from parrot.bench.engine.soak import SoakConfig, run_soak
    from parrot.engine.torch.config import TorchConfig

    if model is None:
        model = random_model(preset="tiny", on_progress=lambda _, phase, __: say(phase))
    engine = TorchConfig(model_dir=str(model), max_batch=16, step_tokens=128)
    config = SoakConfig(engine=engine, minutes=minutes, seed=seed)
    report = asyncio.run(run_soak(config, clock=SystemClock(), tell=say))
    plain = asdict(report)
    write_result(out, f"soak-{report.model}-{seed}", plain)
    if as_json:
        write_json(plain)
    else:
        write_table(["OUTCOME", "NUMBER"], list(report.outcomes.items()))
        load = report.load
        click.echo(
            f"\n{seconds(report.duration_s)}, all freed and counted {report.num_rounds} times, "
            f"{load.num_steps:,} steps, "
            f"{load.num_preemptions:,} preemptions, {load.num_evictions:,} evictions"
        )
        click.echo(
            f"memory {report.rss_slope_bytes_per_minute / 2**20:+.2f} MiB a minute, "
            f"longest pause {seconds(report.longest_pause_s)}"
        )
    for fault in report.faults:
        say(f"wrong: {fault}")
    if not report.passed:
        raise click.exceptions.Exit(1)
