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
@click.option(
    "--readme",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Another page, in whose marked part a few of the figures are put.",
)
@click.option(
    "--tutorial",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page in whose marked part the gains of migrating are put.",
)
@click.option("--plots/--no-plots", default=True, show_default=True, help="Draw the plots too.")
@click.option("--check", is_flag=True, help="Write nothing; fail when the page is not what the results give.")
def bench_report(
    *, directory: Path, out: Path, readme: Path | None, tutorial: Path | None, plots: bool, check: bool
) -> None:
    """Make the page of measurements from result files alone."""
    from parrot.bench.report.files import read_results
    from parrot.bench.report.headline import with_gains, with_headline
    from parrot.bench.report.page import render
    from parrot.bench.report.plots import draw

    results = read_results(directory)
    pages = {out: render(results)}
    if readme is not None:
        pages[readme] = with_headline(readme.read_text(encoding="utf-8"), results)
    if tutorial is not None:
        pages[tutorial] = with_gains(tutorial.read_text(encoding="utf-8"), results)
    for file, page in pages.items():
        if not check:
            file.write_text(page, encoding="utf-8")
            say(f"written to {file}")
        elif not file.is_file() or file.read_text(encoding="utf-8") != page:
            raise ConfigError(f"{file} is not what the results in {directory} give", param="--check")
    if check:
        return
    if plots:
        for file in draw(results, directory):
            say(f"drawn: {file}")
