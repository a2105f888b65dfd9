"""Plots of what was measured on real processes. Those of the paper's figures come with the simulator."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parrot.bench.report.apps import Comparison, comparisons
from parrot.bench.report.files import Results, newest_sections
from parrot.errors import ConfigError

SUFFIXES = (".png", ".svg")


def check_plots() -> None:
    """Raise `ConfigError` (`missing_extra`) when plots cannot be drawn here."""
    if find_spec("matplotlib") is None:
        raise ConfigError(
            'plots need matplotlib, which is not installed: pip install "parrot-llm[plots]", or leave them '
            "out with --no-plots",
            code="missing_extra",
        )


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw `apps` and `control-growth`, as far as there are results; gives the files."""
    check_plots()
    files: list[Path] = []
    closed = [one for one in comparisons(results) if one.work.get("rate") is None]
    if closed:
        files += _save(_completion_times(closed), directory, "apps")
    growth = newest_sections(results.control, ("growth",))[0]["growth"]
    if growth:
        files += _save(_growth(growth), directory, "control-growth")
    return files


def _completion_times(found: list[Comparison]) -> Any:
    """Bars by workload and round trip, one for each side, with the spread of the runs."""
    groups = list(dict.fromkeys((one.work["work"], one.work["rtt_s"]) for one in found))
    bars: dict[str, dict[int, tuple[float, float, float]]] = {}
    for one in found:
        place = groups.index((one.work["work"], one.work["rtt_s"]))
        for side in ("parrot", one.side):
            jct = one.of(side)["jct_s"]
            bars.setdefault(side, {})[place] = (jct["min"], jct["median"], jct["max"])
    canvas, axes = _canvas(max(5.2, 0.9 * len(groups)))
    width = 0.8 / len(bars)
    for index, (side, values) in enumerate(bars.items()):
        at = [place + (index - (len(bars) - 1) / 2) * width for place in values]
        medians = [middle for _, middle, _ in values.values()]
        errors = [
            [middle - low for low, middle, _ in values.values()],
            [high - middle for _, middle, high in values.values()],
        ]
        axes.bar(at, medians, width, yerr=errors, label=side, capsize=2)
    axes.set_xticks(range(len(groups)), [f"{work}\n{rtt_s * 1000:g} ms" for work, rtt_s in groups])
    axes.set_ylabel("job completion time, s")
    axes.legend(fontsize="small")
    return canvas


def _growth(rows: list[dict[str, Any]]) -> Any:
    canvas, axes = _canvas(5.2)
    at = [row["num_live_calls"] for row in rows]
    axes.plot(at, [row["s_per_call"] * 1000 for row in rows], "o-")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("live calls")
    axes.set_ylabel("ms a call")
    return canvas


def _canvas(width: float) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Text as text and no dates, so that the same results give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "parrot"})
    canvas = Figure(figsize=(width, 3.4), layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas, canvas.add_subplot()


def _save(canvas: Any, directory: Path, name: str) -> list[Path]:
    files = [directory / f"{name}{suffix}" for suffix in SUFFIXES]
    for file in files:
        canvas.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else {"Software": None})
    return files
