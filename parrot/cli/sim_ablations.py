"""`parrot sim ablations`: what each ingredient of the service brings, simulated."""

from pathlib import Path

import click

from parrot.cli.output import json_option, say, write_json, write_table
from parrot.sim.ablations import ablations_json, run_ablations, write_ablations
from parrot.sim.plots import check_plots, draw_ablations
from parrot.sim.side_by_side import num_processors

RESULTS = Path("benchmarks/results")

jobs_option = click.option(
    "--jobs",
    default=num_processors,
    show_default="all processors",
    type=click.IntRange(1),
    help="Simulations at a time, each in a process of its own.",
)


@click.command("ablations")
@click.option(
    "--out",
    default=RESULTS,
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where sim-ablations.json and the plot go.",
)
@click.option("--plots/--no-plots", default=True, show_default=True, help="Draw the table.")
@jobs_option
@json_option
def ablations(*, out: Path, plots: bool, jobs: int, as_json: bool) -> None:
    """Switch off each ingredient of the service in turn, over the heavy half of the fair set."""
    if plots:
        check_plots()
    rows = run_ablations(jobs=jobs, on_progress=lambda label, done: say(f"{done:4.0%}  {label}"))
    write_ablations(rows, out / "sim-ablations.json")
    if plots:
        draw_ablations(rows, out)
    if as_json:
        write_json(ablations_json(rows))
    else:
        names = list(rows[0].without) if rows else []
        write_table(
            ["WORKLOAD", "SECONDS", *(f"WITHOUT {name.upper()}" for name in names)],
            [(row.app, row.seconds, *(row.without[name] for name in names)) for row in rows],
        )
    say(f"written to {out}")
