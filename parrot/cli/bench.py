"""`parrot bench`: measurements."""

import click

from parrot.cli.root import LazyGroup

MEMBERS = {
    "engine": ("parrot.cli.bench_engine:bench_engine", "Measure the torch engine by itself."),
    "soak": ("parrot.cli.bench_soak:bench_soak", "Random traffic on the torch engine at full memory."),
    "apps": ("parrot.cli.bench_apps:bench_apps", "Run applications on Parrot and on other servers in turn."),
    "control": ("parrot.cli.bench_control:bench_control", "Measure the service by itself, over HTTP."),
    "scale": ("parrot.cli.bench_scale:bench_scale", "Large and many applications, over HTTP."),
    "migration": (
        "parrot.cli.bench_migration:bench_migration",
        "One application in five versions, from a plain loop to semantic functions.",
    ),
    "report": ("parrot.cli.bench_report:bench_report", "Make the page of measurements from result files."),
}


@click.group(cls=LazyGroup, members=MEMBERS)
def bench() -> None:
    """Measure Parrot on this machine, beside other servers."""
