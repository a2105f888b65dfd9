"""Plots of the paper's figures, the paper's ratios beside ours. Needs the extra `plots`."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parrot.errors import ConfigError
from parrot.sim.ablations import AblationRow
from parrot.sim.figures import FIGURES, Figure
from parrot.sim.paper import PaperResults, Row

SUFFIXES = (".png", ".svg")


def check_plots() -> None:
    """Raise `ConfigError` (`missing_extra`) when plots cannot be drawn here."""
    if find_spec("matplotlib") is None:
        raise ConfigError(
            'plots need matplotlib, which is not installed: pip install "parrot-llm[plots]", or leave them '
            "out with --no-plots",
            code="missing_extra",
        )


def draw_paper(results: PaperResults, directory: Path) -> list[Path]:
    """Draw every figure that was run, as `sim-<figure>.png` and `.svg`; returns the files.

    Raises:
        ConfigError: `missing_extra`.
    """
    check_plots()
    directory.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for figure in FIGURES:
        rows = [row for row in results.rows if row.figure == figure.figure_id]
        if rows:
            paths.extend(_draw(figure, rows, directory))
    return paths


def draw_ablations(rows: Sequence[AblationRow], directory: Path) -> list[Path]:
    """Draw what each ingredient brings, as `sim-ablations.png` and `.svg`; returns the files.

    Raises:
        ConfigError: `missing_extra`.
    """
    check_plots()
    directory.mkdir(parents=True, exist_ok=True)
    names = list(rows[0].without) if rows else []
    canvas, axes = _canvas((7.4, 0.5 * len(rows) + 1.8))
    shown = [[min(2.0, max(0.5, row.without[name])) for name in names] for row in rows]
    axes.imshow(shown, cmap="RdBu_r", vmin=0.5, vmax=1.5, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=7)
    axes.set_yticks(range(len(rows)), [row.app for row in rows], fontsize=7)
    for y, row in enumerate(rows):
        for x, name in enumerate(names):
            axes.text(x, y, f"{row.without[name]:.2f}", ha="center", va="center", fontsize=7)
    axes.set_title("Completion time without one ingredient, over that with all", fontsize=9)
    return _save(canvas, directory, "sim-ablations")


def _draw(figure: Figure, rows: Sequence[Row], directory: Path) -> list[Path]:
    canvas, axes = _canvas((5.2, 3.4))
    for index, against in enumerate(dict.fromkeys(row.against for row in rows)):
        colour = f"C{index}"
        mine = [row for row in rows if row.against == against]
        axes.plot([row.point for row in mine], [row.ours for row in mine], "o-", color=colour, label=against)
        theirs = [(row.point, row.paper) for row in mine if row.paper is not None]
        axes.plot([x for x, _ in theirs], [y for _, y in theirs], "x--", color=colour, alpha=0.6)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(figure.varies)
    axes.set_ylabel("times better (dashed: the paper)")
    axes.set_title(f"Figure {figure.figure_id}: {figure.title}", fontsize=9)
    axes.legend(fontsize=7)
    return _save(canvas, directory, f"sim-{figure.figure_id}")


def _canvas(size: tuple[float, float]) -> tuple[Any, Any]:
    """A drawing and its axes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    # Text as text and no dates, so that the same results give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "parrot"})
    canvas = Canvas(figsize=size, layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas, canvas.add_subplot()


def _save(canvas: Any, directory: Path, name: str) -> list[Path]:
    paths = [directory / f"{name}{suffix}" for suffix in SUFFIXES]
    for path in paths:
        metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        canvas.savefig(path, dpi=130, metadata=metadata)
    return paths
