"""`parrot bench report`."""

from pathlib import Path

import click

from parrot.cli.output import say
from parrot.errors import ConfigError


@click.command("report")
@click.option(
    "--results",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("benchmarks/results"),
    show_default=True,
    help="Where result files are; plots go there as well.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("benchmarks/README.md"),
    show_default=True,
    help="The page.",
)
@click.option("--plots/--no-plots", default=True, show_default=True, help="Draw the plots too.")
@click.option("--check", is_flag=True, help="Write nothing; fail when the page is not what the results give.")
def bench_report(*, directory: Path, out: Path, plots: bool, check: bool) -> None:
    """Make the page of measurements from result files alone."""
    from parrot.bench.report.files import read_results
    from parrot.bench.report.page import render
    from parrot.bench.report.plots import draw

    results = read_results(directory)
    page = render(results)
    if check:
        if not out.is_file() or out.read_text(encoding="utf-8") != page:
            raise ConfigError(f"{out} is not what the results in {directory} give", param="--check")
        return
    out.write_text(page, encoding="utf-8")
    say(f"written to {out}")
    if plots:
        for file in draw(results, directory):
            say(f"drawn: {file}")
