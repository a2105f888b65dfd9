"""`parrot bench engine`."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parrot.cli.output import json_option, say, seconds, write_json, write_table
from parrot.cli.results import check_out, moment, out_option, write_result
from parrot.ports.clock import SystemClock

if TYPE_CHECKING:
    from parrot.bench.engine.report import (
        DecodeResult,
        EngineReport,
        FloorDistance,
        PrefillResult,
        SplitResult,
    )
    from parrot.bench.spread import Spread

SECTIONS = ("prefill", "decode", "split", "memory", "floors", "int8")


@click.command("engine")
@click.option(
    "--model",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A model directory [a random model of the preset bench-115m].",
)
@click.option("--quick", is_flag=True, help="Fewer and shorter cases: a look, not a result.")
@click.option(
    "--only", "sections", multiple=True, type=click.Choice(SECTIONS), help="Measure this; may be repeated."
)
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(3, 100), help="Of each case.")
@out_option
@click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", show_default=True)
@click.option("--kernels", type=click.Choice(("auto", "native", "torch")), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the model [torch decides].")
@json_option
def bench_engine(
    *,
    model: Path | None,
    quick: bool,
    sections: tuple[str, ...],
    repeats: int,
    out: Path | None,
    device: str,
    kernels: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the torch engine: prefill, decoding, attention settings, memory, and the machine's floors.

    The engine runs in this process, and nothing else should run beside it. See docs/reference/bench.md.
    """
    from parrot.assembly import random_model
    from parrot.engine.launch import need_torch

    need_torch()
    check_out(out)
    from parrot.bench.engine.config import EngineBenchConfig
    from parrot.bench.engine.suite import run_engine_bench
    from parrot.engine.torch.config import TorchConfig

    if model is None:
        model = random_model(preset="bench-115m", on_progress=lambda _, phase, __: say(phase))
    engine = TorchConfig(
        model_dir=str(model),
        device=device,  # type: ignore[arg-type]
        kernels=kernels,  # type: ignore[arg-type]
        num_threads=threads,
    )
    config = EngineBenchConfig(engine=engine, repeats=repeats)
    if quick:
        config = config.quick()
    if sections:
        config = replace(config, sections=sections)  # type: ignore[arg-type]
    report = asyncio.run(run_engine_bench(config, clock=SystemClock(), tell=say))
    plain = asdict(report)
    write_result(out, f"engine-{report.model}-{moment(report.started_at)}", plain)
    if as_json:
        write_json(plain)
    else:
        _show(report)


def _show(report: "EngineReport") -> None:
    """Tables for people."""
    engine = report.engines[0]
    cpu = f"{report.machine.num_cpus} × {report.machine.cpu} ({' '.join(report.machine.cpu_flags)})"
    click.echo(
        f"{report.model}  {engine.num_parameters / 1e6:.0f} M parameters, {engine.dtype}, {engine.device}"
    )
    click.echo(f"{engine.description}\n{cpu}")
    if report.load_average > 1:
        click.echo(f"this machine was busy: load {report.load_average:.1f}")
    if report.floors is not None:
        reads, products = report.floors.read_bytes_per_s.max, report.floors.matrix_flops_per_s.max
        click.echo(f"at best: reads {reads / 1e9:.1f} GB/s, products {products / 1e12:.2f} TFLOP/s")
    _show_rates(report.prefill, report.decode)
    if report.int8 is not None:
        click.echo("\nWITH WEIGHTS IN INT8")
        _show_rates(report.int8.prefill, report.int8.decode)
    if report.split:
        click.echo("\nWHERE THE TIME GOES, MS")
        write_table(
            ["PHASE", "BATCH", "CONTEXT", "STEP", "MATRIX", "ATTENTION", "SAMPLING", "MODEL REST", "OUTSIDE"],
            [[one.phase, one.batch, one.context_tokens, *map(_ms, _parts(one))] for one in report.split],
        )
    _show_memory(report)
    for skipped in report.skipped:
        click.echo(f"left out: {skipped.case}: {skipped.reason}")
    click.echo(f"\n{seconds(report.duration_s)}")


def _show_rates(prefill: Sequence["PrefillResult"], decode: Sequence["DecodeResult"]) -> None:
    if prefill:
        click.echo("\nPREFILL")
        write_table(
            ["TOKENS", "TOKENS/S", "MIN", "MAX", "× FLOOR"],
            [[one.num_tokens, *_rate(one.tokens_per_s), _times(one.floor)] for one in prefill],
        )
    if decode:
        click.echo("\nDECODE")
        write_table(
            ["BATCH", "CONTEXT", "PREFIX", "ATTENTION", "TOKENS/S", "MIN", "MAX", "MS/STEP", "× FLOOR"],
            [
                [
                    one.batch,
                    one.context_tokens,
                    one.prefix,
                    one.attention,
                    *_rate(one.tokens_per_s),
                    _ms(one.step_s),
                    _times(one.floor),
                ]
                for one in decode
            ],
        )


def _show_memory(report: "EngineReport") -> None:
    if report.memory is None:
        return
    click.echo(f"\nMEMORY\npeak {report.memory.peak_rss_bytes / 2**20:,.0f} MiB resident")
    if report.memory.peak_device_bytes is not None:
        click.echo(f"peak {report.memory.peak_device_bytes / 2**20:,.0f} MiB on the device")
    forks = report.memory.forks
    if forks is not None:
        click.echo(
            f"{forks.num_forks} forks of {forks.suffix_tokens} tokens over one prefix of "
            f"{forks.prefix_tokens}: {forks.num_blocks} blocks, {forks.expected_blocks} expected, "
            f"{forks.unshared_blocks} when nothing is shared"
        )


def _rate(spread: "Spread") -> list[float]:
    return [spread.median, spread.min, spread.max]


def _parts(split: "SplitResult") -> list["Spread"]:
    whole = [split.step_s, split.matrix_s, split.attention_s]
    return [*whole, split.sampling_s, split.model_rest_s, split.outside_s]


def _ms(spread: "Spread") -> float:
    return spread.median * 1000


def _times(floor: "FloorDistance | None") -> float | None:
    return None if floor is None else floor.times_floor
