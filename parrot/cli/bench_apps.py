"""`parrot bench apps`."""

import json
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parrot.cli.output import json_option, say, seconds, write_table
from parrot.cli.results import check_out, moment, out_option, write_result
from parrot.ports.clock import SystemClock

if TYPE_CHECKING:
    from parrot.bench.apps.records import StreamSummary, WorkSummary

WORKS = ("chain", "mapreduce", "gpts", "shared", "agents", "copilot")
SERVING = ("gpts-rate", "chat-mapreduce", "chain-background")


@click.command("apps")
@click.option(
    "--work",
    "works",
    default="all",
    metavar="NAMES",
    help=f"Some of {', '.join(WORKS)} (all of these: all); {', '.join(SERVING)} [all].",
)
@click.option("--url", metavar="URL", help="A running Parrot [one is started for the time].")
@click.option("--model", metavar="DIR", help="The model of the Parrot that is started [bench-115m, random].")
@click.option(
    "--engine",
    type=click.Choice(("torch", "scripted")),
    help="The engine of the Parrot that is started [torch].",
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="KIND:WHERE",
    help="openai:URL, a running server; or vllm:VENV or llamacpp:VENV, started from there. May be repeated.",
)
@click.option("--baseline-parrot", is_flag=True, help="Parrot's own completions API is a base line too.")
@click.option(
    "--rtt",
    "rtts_s",
    multiple=True,
    type=click.FloatRange(0, 10),
    metavar="SECONDS",
    help="Round trip added to each request of each client; may be repeated [0].",
)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=click.FloatRange(0.01, 1000),
    metavar="N",
    help="Requests a second of work that arrives by rate; may be repeated [1].",
)
@click.option(
    "--duration",
    "duration_s",
    default=20.0,
    show_default=True,
    type=click.FloatRange(0.5, 3600),
    help="Seconds for which it arrives.",
)
@click.option(
    "--bound",
    "bound_s",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0.0001, 60),
    help="Seconds for each output token; a request that took longer is no goodput.",
)
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1, 1000), help="Of each workload.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of all texts [another each time].")
@click.option(
    "--scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.01, 100),
    help="Multiplies all lengths.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A directory with articles and logs to take texts and lengths from [words are drawn].",
)
@click.option("--stream", is_flag=True, help="Base lines stream, so that their first tokens are seen.")
@out_option
@json_option
def bench_apps(
    *,
    works: str,
    url: str | None,
    model: str | None,
    engine: str | None,
    baselines: tuple[str, ...],
    baseline_parrot: bool,
    rtts_s: tuple[float, ...],
    rates: tuple[float, ...],
    duration_s: float,
    bound_s: float,
    runs: int,
    seed: int | None,
    scale: float,
    data: Path | None,
    stream: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run applications on Parrot and on other servers in turn, and compare.

    Each application is one program: with semantic variables for Parrot, request by request for base lines,
    with equal prompts and answers of equal length. With --json each run is one line on standard output, and a
    last line sums up. See docs/reference/bench-apps.md.
    """
    from parrot.bench.apps.command import AppsRequest, run_apps
    from parrot.bench.apps.suite import AppsPlan
    from parrot.bench.processes import run_to_end

    check_out(out)
    plan = AppsPlan(
        works=_chosen(works),
        rtts_s=rtts_s or (0.0,),
        runs=runs,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        scale=scale,
        rates=rates or (1.0,),
        duration_s=duration_s,
        bound_s=bound_s,
    )
    request = AppsRequest(
        plan=plan,
        url=url,
        model=None if model is None else Path(model),
        engine=engine or "torch",
        baselines=tuple(map(_absolute, baselines)),
        baseline_parrot=baseline_parrot,
        data=data,
        stream=stream,
    )
    if request.needs_model:
        request = request.with_model(_model(model))

    def show_run(record: object) -> None:
        if as_json:
            click.echo(json.dumps({"type": "run", **asdict(record)}))  # type: ignore[call-overload]

    report = run_to_end(run_apps(request, clock=SystemClock(), tell=say, on_run=show_run))
    write_result(out, f"apps-{moment(report.started_at)}", asdict(report))
    if as_json:
        summary = asdict(report)
        del summary["runs"]
        click.echo(json.dumps({"type": "summary", **summary}))
    else:
        _show(report.works)
        click.echo(f"\n{seconds(report.duration_s)}")


def _chosen(text: str) -> tuple[str, ...]:
    named = [name for part in text.split(",") for name in (WORKS if part == "all" else (part,))]
    if unknown := [name for name in named if name not in (*WORKS, *SERVING)]:
        raise click.UsageError(f"no workload {unknown[0]!r}; there are {', '.join((*WORKS, *SERVING))}")
    return tuple(dict.fromkeys(named))


def _absolute(baseline: str) -> str:
    """A directory as seen from anywhere."""
    kind, colon, where = baseline.partition(":")
    return (
        f"{kind}:{Path(where).absolute()}" if kind in ("vllm", "llamacpp") and where else kind + colon + where
    )


def _model(model: str | None) -> Path:
    from parrot.assembly import find_model, random_model
    from parrot.engine.launch import need_torch

    need_torch()
    if model is not None:
        return find_model(model).resolve()
    return random_model(preset="bench-115m", on_progress=lambda _, phase, __: say(phase))


def _milliseconds(stream: "StreamSummary") -> list[float | None]:
    spreads = (stream.ttft_s, stream.tpot_s, stream.normalised_latency_s)
    return [None if one is None else one.median * 1000 for one in spreads]


def _show(works: "tuple[WorkSummary, ...]") -> None:
    """A table for people."""
    rows = []
    for work in works:
        ratios = {ratio.side: ratio for ratio in work.ratios}
        for side in work.sides:
            ratio = ratios.get(side.side)
            rows.append(
                [
                    work.work if work.rate is None else f"{work.work} at {work.rate:g}/s",
                    work.rtt_s,
                    side.side,
                    side.jct_s.median,
                    side.jct_s.min,
                    side.jct_s.max,
                    None if side.hit_rate is None else f"{side.hit_rate.median:.0%}",
                    None if ratio is None else ratio.speedup.median,
                    None if ratio is None else ratio.speedup.min,
                    None if ratio is None else ratio.speedup.max,
                ]
            )
    write_table(
        ["WORK", "RTT", "SIDE", "JCT S", "MIN", "MAX", "CACHED", "PARROT IS FASTER", "MIN", "MAX"], rows
    )
    streams = [
        [f"{work.work} at {work.rate:g}/s", side.side, one.stream, one.jct_s.median, *_milliseconds(one)]
        for work in works
        for side in work.sides
        for one in side.streams
    ]
    if streams:
        click.echo()
        write_table(["WORK", "SIDE", "STREAM", "JCT S", "TTFT MS", "TPOT MS", "MS/TOKEN"], streams)
