"""`parrot sim`: applications on simulated engines, the paper's figures, and traces of live sessions."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, get_args

import click

from parrot.bench.origin import peak_rss_bytes
from parrot.bench.sim_speed import SimSpeedPlan, SimSpeedReport, on_cpu, run_sim_speed
from parrot.cli.client import ServiceClient, service_option
from parrot.cli.output import json_option, say, write_json, write_table
from parrot.cli.results import check_out, out_option, write_result
from parrot.cli.sim_ablations import ablations, jobs_option
from parrot.core.service_config import Ingredient
from parrot.errors import ConfigError
from parrot.sim.application import Application
from parrot.sim.comparison import Workload, summary
from parrot.sim.cost import PRESETS
from parrot.sim.cost_file import read_cost_file
from parrot.sim.engine import SimulatedConfig
from parrot.sim.figures import FIGURES
from parrot.sim.paper import PaperResults, run_paper, write_results
from parrot.sim.plots import check_plots, draw_paper
from parrot.sim.simulation import SimulationConfig
from parrot.sim.trace import Trace, read_trace, record, replay
from parrot.sim.workloads import APPLICATIONS
from parrot.wire.answers import GraphView

RESULTS = Path("benchmarks/results")
DEFAULT_PRESET = "a100-80g-13b"
CLIENTS = click.Choice(["graph", "requests"])


@click.group(invoke_without_command=True)
@click.option("--app", type=click.Choice(list(APPLICATIONS)), help="An application of the paper.")
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False), help="A recorded session.")
@click.option("--engines", default=1, show_default=True, type=click.IntRange(1, 10_000), help="Engines.")
@click.option(
    "--preset",
    default=DEFAULT_PRESET,
    show_default=True,
    type=click.Choice(list(PRESETS)),
    help="Their costs.",
)
@click.option(
    "--cost",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Their costs as `parrot bench engine --out` measured them, in place of a preset.",
)
@click.option("--kv-tokens", type=click.IntRange(16), help="Tokens of KV per engine; default: what fits.")
@click.option(
    "--max-batch", default=256, show_default=True, type=click.IntRange(1), help="Requests in a step."
)
@click.option("--policy", default="app-centric", show_default=True, help="How calls are given to engines.")
@click.option("--client", default="graph", show_default=True, type=CLIENTS, help="What a client sends.")
@click.option(
    "--without", multiple=True, type=click.Choice(get_args(Ingredient)), help="An ingredient to switch off."
)
@click.option("--against", help="A second policy to compare with.")
@click.option("--against-client", default="requests", show_default=True, type=CLIENTS, help="Its client.")
@click.option("--count", default=20, show_default=True, type=click.IntRange(1), help="Applications.")
@click.option(
    "--arrivals",
    default="poisson",
    show_default=True,
    type=click.Choice(["poisson", "uniform", "burst", "closed"]),
    help="How they come.",
)
@click.option(
    "--rate", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True), help="A second."
)
@click.option("--concurrent", type=click.IntRange(1), help="Applications at a time; needed for `closed`.")
@click.option("--round-trip", default=0.244, show_default=True, type=click.FloatRange(0), help="Seconds.")
@click.option("--seed", default=0, show_default=True, help="Another seed, other chance.")
@json_option
@click.pass_context
def sim(ctx: click.Context, /, **options: Any) -> None:
    """Run applications in virtual time, on the service's own code and simulated engines.

    With --against, the same workload runs twice and the results stand side by side.
    """
    if ctx.invoked_subcommand is not None:
        return
    if options["arrivals"] == "closed" and options["concurrent"] is None:
        raise click.UsageError("--arrivals closed needs --concurrent")
    workload = Workload(
        app=options["app"],
        application=_replayed(options["trace"]) if options["trace"] else None,
        count=options["count"],
        arrivals=options["arrivals"],
        rate=options["rate"],
        seed=options["seed"],
    )
    config = SimulationConfig(
        engines=(_engine(options),) * options["engines"],
        policy=options["policy"],
        without=options["without"],
        client=options["client"],
        round_trip=options["round_trip"],
        max_concurrent=options["concurrent"],
        seed=options["seed"],
    )
    configs = [config]
    if options["against"] is not None:
        configs.append(
            replace(config, policy=options["against"], client=options["against_client"], without=())
        )
    results = [{"policy": each.policy, "client": each.client, **_run(each, workload)} for each in configs]
    if options["as_json"]:
        write_json({"engines": options["engines"], "results": results, **_ratio(results)})
    else:
        _write_results(results)


sim.add_command(ablations)


@sim.command()
@click.option("--only", default="", help="Figures, by comma: 11a,13 or fair. Default: all.")
@click.option(
    "--out",
    default=RESULTS,
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where sim-paper.json and the plots go.",
)
@click.option("--plots/--no-plots", default=True, show_default=True, help="Draw the figures.")
@jobs_option
@json_option
def paper(*, only: str, out: Path, plots: bool, jobs: int, as_json: bool) -> None:
    """Run figures 11 to 18 of the paper, each against its own base line."""
    if plots:
        check_plots()
    names = [name.strip() for name in only.split(",") if name.strip()]
    results = run_paper(names, jobs=jobs, on_progress=lambda label, done: say(f"{done:4.0%}  {label}"))
    write_results(results, out / "sim-paper.json")
    if plots:
        draw_paper(results, out)
    if as_json:
        write_json(results.to_json())
    else:
        _write_paper(results)
    say(f"written to {out}")


@sim.command()
@click.option("--engines", default="4,64,1000", show_default=True, help="Sizes of fleets, by comma.")
@click.option("--calls", default=4000, show_default=True, type=click.IntRange(1), help="Calls of each.")
@click.option("--live", default="1000,10000,100000", show_default=True, help="Calls that wait, by comma.")
@click.option("--repeats", default=20, show_default=True, type=click.IntRange(1), help="Of each round.")
@click.option(
    "--long",
    type=click.IntRange(10),
    help="In place of all that, simulate a tenth of so many calls, and then so many.",
)
@jobs_option
@out_option
@json_option
def speed(*, engines: str, live: str, out: Path | None, as_json: bool, **numbers: Any) -> None:
    """Measure the simulator and the scheduler.

    One simulation is counted in processor time, --jobs of them at the same time in real time.
    """
    plan = SimSpeedPlan(engines=_counts(engines), live=_counts(live), **numbers)
    check_out(out)
    report = run_sim_speed(plan, tell=say)
    write_result(out, "sim-speed" if plan.long is None else "sim-long", asdict(report))
    if as_json:
        write_json(asdict(report))
    else:
        _write_speed(report)


@sim.command("record")
@click.argument("session_id")
@service_option
def record_session(service: ServiceClient, session_id: str) -> None:
    """Print the trace of a session of a live service, to be replayed with --trace."""
    trace = record(service.get(GraphView, f"/v1/sessions/{session_id}/graph"))
    write_json(trace.to_json())


def _run(config: SimulationConfig, workload: Workload) -> dict[str, object]:
    report, cpu_s = on_cpu(config, workload.jobs())
    return {
        **summary(report),
        "cpu_s": cpu_s,
        "calls_per_cpu_s": report.num_calls / cpu_s if cpu_s else None,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _engine(options: dict[str, Any]) -> SimulatedConfig:
    if options["cost"] is not None:
        measured = read_cost_file(options["cost"])
        cost, tokens, name = measured.cost, measured.kv_tokens, measured.name
    else:
        preset = PRESETS[options["preset"]]
        cost, tokens, name = preset.cost(), preset.kv_tokens(), preset.name
    tokens = options["kv_tokens"] or tokens
    return SimulatedConfig(
        cost=cost, num_blocks=max(1, tokens // 16), max_batch=options["max_batch"], description=name
    )


def _replayed(path: Path) -> Callable[[Random], Application]:
    trace = _load_trace(path)
    replay(trace)  # refused now, if it does not fit together
    return partial(replay, trace)


def _load_trace(path: Path) -> Trace:
    try:
        return read_trace(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", param="trace") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}", param="trace") from None


def _mean_jct(result: Mapping[str, Any]) -> float | None:
    return None if result["jct_s"] is None else result["jct_s"]["mean"]


def _ratio(results: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """How many times sooner applications end in the first run than in the second, on average."""
    means = [_mean_jct(result) for result in results]
    if len(means) < 2 or means[0] is None or means[1] is None:
        return {}
    return {"speedup": means[1] / means[0]}


def _write_results(results: Sequence[Mapping[str, Any]]) -> None:
    write_table(
        [
            "POLICY",
            "CLIENT",
            "MEAN JCT",
            "P50",
            "P99",
            "S/TOKEN",
            "TOKENS/S",
            "PREFILLED",
            "HIT RATE",
            "ERRORS",
        ],
        [
            (
                result["policy"],
                result["client"],
                *((result["jct_s"] or {}).get(name) for name in ("mean", "p50", "p99")),
                result["normalised_latency_s"],
                result["output_tokens_per_s"],
                result["prefilled_tokens"],
                result["prefix_hit_rate"],
                sum(result["errors"].values()),
            )
            for result in results
        ],
    )
    for name, value in _ratio(results).items():
        click.echo(f"{name}: {value:.2f}")


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise click.UsageError(f"{text!r} is not a list of numbers") from None
    if any(count < 1 for count in counts):
        raise click.UsageError("each number is at least 1")
    return counts


def _write_speed(report: SimSpeedReport) -> None:
    rounds = report.rounds
    if report.long:
        write_table(
            ["SIMULATED", "ENGINES", "CALLS", "CALLS/CPU S", "PEAK MIB"],
            [
                (run.app, run.num_engines, run.num_calls, run.calls_per_cpu_s, run.rss_bytes / 2**20)
                for run in report.long
            ],
        )
    if rounds is None:
        return
    write_table(
        ["SIMULATED", "ENGINES", "CALLS", "CALLS/CPU S"],
        [(each.app, each.num_engines, each.num_calls, each.calls_per_cpu_s) for each in report.simulated],
    )
    if report.together:
        click.echo()
        write_table(
            ["AT THE SAME TIME", "ENGINES", "PROCESSES", "CALLS", "CALLS/S"],
            [
                (each.app, each.num_engines, each.num_processes, each.num_calls, each.calls_per_real_s)
                for each in report.together
            ],
        )
    click.echo()
    write_table(
        ["ROUND", "ENGINES", "WAITING", "MEDIAN MS", "MAX MS"],
        [
            (name, rounds.num_engines, rounds.num_waiting, taken.median * 1000, taken.max * 1000)
            for name, taken in (("one changed", rounds.one_changed_s), ("all placed", rounds.all_placed_s))
        ],
    )
    click.echo()
    write_table(
        ["LIVE CALLS", "CPU MS PER CALL", "PEAK MIB"],
        [(each.num_live, each.cpu_s_per_call * 1000, each.rss_bytes / 2**20) for each in report.live],
    )


def _write_paper(results: PaperResults) -> None:
    not_yet = {figure.figure_id: figure for figure in results.not_yet}
    rows: list[tuple[object, ...]] = []
    for figure in FIGURES:
        if figure.figure_id in not_yet:
            rows.append((figure.figure_id, figure.title, None, None, None, f"not yet: needs {figure.needs}"))
        rows.extend(
            (
                row.figure,
                f"{figure.varies} {row.point:g}",
                row.against,
                row.paper,
                row.ours,
                "" if row.agrees is None else "yes" if row.agrees else "no",
            )
            for row in results.rows
            if row.figure == figure.figure_id
        )
    write_table(["FIGURE", "AT", "AGAINST", "PAPER", "OURS", "WITHIN 20 %"], rows)
    if results.fair:
        click.echo()
        write_table(
            ["FAIR SET", "ROUND TRIP", "AGAINST", "OURS", "SECONDS", "THEIRS"],
            [
                (row.app, row.round_trip_s, row.against, row.ratio, row.ours_value, row.against_value)
                for row in results.fair
            ],
        )
