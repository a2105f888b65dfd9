"""`parrot bench scale`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parrot.cli.output import json_option, say, seconds, write_json, write_table
from parrot.cli.results import check_out, moment, out_option, write_result
from parrot.ports.clock import SystemClock

if TYPE_CHECKING:
    from parrot.bench.scale.report import ScaleReport


@click.command("scale")
@click.option("--quick", is_flag=True, help="Fewer and smaller: a look, not a result.")
@click.option("--rounds", type=click.IntRange(1, 1000), help="Of all parts [3].")
@click.option(
    "--faster", type=click.FloatRange(0.1, 1000), help="Engines' speed over a model's on a GPU [4]."
)
@out_option
@json_option
def bench_scale(
    *, quick: bool, rounds: int | None, faster: float | None, out: Path | None, as_json: bool
) -> None:
    """Run large and many applications over HTTP, and see that nothing is lost and memory stays.

    A map-reduce over a book of 2,000 parts, 200 chats at a time, 50 coding teams at a time, in rounds, on
    scripted engines that take as long as a model would. See docs/reference/bench-scale.md.
    """
    from parrot.bench.processes import run_to_end
    from parrot.bench.scale.suite import ScalePlan, run_scale

    check_out(out)
    plan = ScalePlan().quick() if quick else ScalePlan()
    if rounds is not None:
        plan = replace(plan, rounds=rounds)
    if faster is not None:
        plan = replace(plan, faster=faster)
    report = run_to_end(run_scale(plan, clock=SystemClock(), tell=say))
    plain = asdict(report)
    write_result(out, f"scale-{moment(report.started_at)}", plain)
    if as_json:
        write_json(plain)
    else:
        _show(report)


def _show(report: "ScaleReport") -> None:
    """A table for people."""
    write_table(
        [
            "PART",
            "ROUND",
            "SESSIONS",
            "CALLS",
            "LOST",
            "S",
            "CALLS/S",
            "RESULT P99 S",
            "LOOP P99 MS",
            "MAX",
            "MIB",
        ],
        [
            [
                part.name,
                part.round + 1,
                part.num_sessions,
                part.num_calls,
                part.num_lost,
                part.duration_s,
                part.calls_per_s,
                part.result_s.p99,
                part.answer_s.p99 * 1000,
                part.answer_s.max * 1000,
                None if part.rss_bytes is None else part.rss_bytes / 2**20,
            ]
            for part in report.parts
        ],
    )
    growth = "-" if report.rss_growth is None else f"{report.rss_growth:.2f}"
    click.echo(
        f"\n{report.num_lost} calls lost; memory after the last round {growth} times that after the first; "
        f"{report.owned_blocks} KV blocks still held\n\n{seconds(report.duration_s)}"
    )
