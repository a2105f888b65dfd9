"""`parrot bench control`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parrot.cli.output import json_option, say, seconds, write_json, write_table
from parrot.cli.results import check_out, moment, out_option, write_result
from parrot.ports.clock import SystemClock

if TYPE_CHECKING:
    from parrot.bench.control.report import ControlReport, Quantiles
    from parrot.bench.spread import Spread

SECTIONS = ("batches", "single", "chain", "session", "growth", "memory")


@click.command("control")
@click.option("--quick", is_flag=True, help="Fewer calls: a look, not a result.")
@click.option(
    "--only", "sections", multiple=True, type=click.Choice(SECTIONS), help="Measure this; may be repeated."
)
@click.option("--repeats", type=click.IntRange(1, 100), help="Of each rate [3].")
@out_option
@json_option
def bench_control(
    *, quick: bool, sections: tuple[str, ...], repeats: int | None, out: Path | None, as_json: bool
) -> None:
    """Measure the service by itself: calls a second, what it adds to each call, growth, memory.

    A service with an engine that costs nothing runs in a process of its own, and is driven over HTTP. See
    docs/reference/bench-control.md.
    """
    from parrot.bench.control.command import run_control
    from parrot.bench.control.suite import ControlPlan
    from parrot.bench.processes import run_to_end

    check_out(out)
    plan = ControlPlan().quick() if quick else ControlPlan()
    if sections:
        plan = replace(plan, sections=sections)  # type: ignore[arg-type]
    if repeats is not None:
        plan = replace(plan, repeats=repeats)
    report = run_to_end(run_control(plan, clock=SystemClock(), tell=say))
    plain = asdict(report)
    write_result(out, f"control-{moment(report.started_at)}", plain)
    if as_json:
        write_json(plain)
    else:
        _show(report)


def _show(report: "ControlReport") -> None:
    """Tables for people."""
    rates = [one for one in (report.batches, report.single) if one is not None]
    if rates:
        write_table(
            ["CALLS IN A SUBMISSION", "CLIENTS", "CALLS/S", "MIN", "MAX", "SERVICE'S CPU MS/CALL"],
            [
                [
                    one.batch_calls,
                    one.num_connections,
                    *_rate(one.calls_per_s),
                    _ms(one.service_cpu_s_per_call),
                ]
                for one in rates
            ],
        )
    if report.chain is not None:
        added, trip = report.chain.added_s, report.chain.round_trip_s
        click.echo(
            f"\na dependent call adds {_both(added)} in a chain of {report.chain.length:,}; "
            f"step by step from a client {_both(trip)}"
        )
    if report.session is not None:
        one = report.session
        click.echo(
            f"a session of {one.num_calls:,} calls: submitted after {seconds(one.submitted_s)}, done after "
            f"{seconds(one.done_s)}; its graph takes {seconds(one.graph_s)}"
        )
    if report.growth:
        click.echo()
        write_table(
            ["LIVE CALLS", "CALLS/S", "MIN", "MAX", "COST × FIRST", "SERVICE'S CPU MS/CALL"],
            [
                [
                    one.num_live_calls,
                    *_rate(one.calls_per_s),
                    one.against_first,
                    _ms(one.service_cpu_s_per_call),
                ]
                for one in report.growth
            ],
        )
    if report.memory is not None:
        found = report.memory
        click.echo(
            f"\nmemory: {found.idle_bytes / 2**20:.0f} MiB idle, "
            f"{found.per_waiting_call_bytes / 1024:.1f} KiB for a call that waits, "
            f"{found.per_done_call_bytes / 1024:.1f} KiB for one that has ended; "
            f"{found.after_delete_bytes / 2**20:.0f} MiB when all sessions are deleted"
        )
    click.echo(f"\n{seconds(report.duration_s)}")


def _rate(spread: "Spread") -> list[float]:
    return [spread.median, spread.min, spread.max]


def _both(found: "Quantiles") -> str:
    return f"{found.p50 * 1000:.2f} ms (p50), {found.p99 * 1000:.2f} ms (p99)"


def _ms(value: float | None) -> float | None:
    return None if value is None else value * 1000
