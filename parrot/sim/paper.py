"""`parrot sim paper`: every figure run, compared with the paper, and written down."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from parrot.errors import ConfigError
from parrot.sim.fair import BASE_POLICIES, ROUND_TRIPS_S, WORKLOADS, FairWorkload, run_fair
from parrot.sim.figures import BASE_POLICY, FIGURES, OUR_POLICY, OURS, TOLERANCE, Figure
from parrot.sim.side_by_side import Progress, Task, run_side_by_side

FORMAT = 1
"""Version of the results file's keys."""
FAIR = "fair"
"""What the fair set is asked for by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One point of one figure, against one base line."""

    figure: str
    point: float
    against: str
    paper: float | None
    """How many times better the paper's system was."""
    ours: float
    """How many times better ours is in simulation."""
    ours_value: float
    against_value: float

    @property
    def agrees(self) -> bool | None:
        """Whether our ratio is within `TOLERANCE` of the paper's; None where the paper has none."""
        return None if self.paper is None else abs(self.ours / self.paper - 1) <= TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class FairRow:
    """One application of the fair set, against one base line."""

    app: str
    round_trip_s: float
    against: str
    ratio: float
    ours_value: float
    against_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperResults:
    """Everything that was run, and what could not be."""

    rows: tuple[Row, ...]
    fair: tuple[FairRow, ...]
    not_yet: tuple[Figure, ...]
    """Figures whose policy does not exist yet."""

    def to_json(self) -> dict[str, object]:
        """As one JSON value; see `docs/explanation/simulator.md`."""
        ran = {row.figure for row in self.rows}
        return {
            "format": FORMAT,
            "policy": OUR_POLICY,
            "base_policy": BASE_POLICY,
            "fair_policies": dict(BASE_POLICIES),
            "tolerance": TOLERANCE,
            "figures": [
                {
                    "figure": figure.figure_id,
                    "title": figure.title,
                    "varies": figure.varies,
                    "state": "not yet" if figure in self.not_yet else "run",
                    "note": figure.note,
                    "rows": [
                        {**asdict(row), "agrees": row.agrees}
                        for row in self.rows
                        if row.figure == figure.figure_id
                    ],
                }
                for figure in FIGURES
                if figure.figure_id in ran or figure in self.not_yet
            ],
            "fair": [asdict(row) for row in self.fair],
        }


def chosen_figures(only: Sequence[str]) -> tuple[tuple[Figure, ...], bool]:
    """The figures with these ids, or whose ids begin with them, and whether the fair set is wanted; with no
    ids, everything.

    Raises:
        ConfigError: there is no such figure.
    """
    for name in only:
        if name != FAIR and not any(figure.figure_id.startswith(name) for figure in FIGURES):
            known = ", ".join([figure.figure_id for figure in FIGURES] + [FAIR])
            raise ConfigError(f"no figure {name!r}; there are {known}", param="only")
    figures = tuple(f for f in FIGURES if not only or any(f.figure_id.startswith(name) for name in only))
    return figures, not only or FAIR in only


def run_paper(
    only: Sequence[str] = (), *, jobs: int = 1, on_progress: Progress | None = None
) -> PaperResults:
    """Run the figures asked for, with `jobs` processes; see `run_side_by_side`."""
    figures, with_fair = chosen_figures(only)
    points = [
        Task(
            f"figure {figure.figure_id}, {figure.varies}: {point:g}", partial(_rows, figure.figure_id, index)
        )
        for figure in figures
        if figure.can_run
        for index, point in enumerate(figure.points)
    ]
    fair = [
        Task(
            f"fair set, {workload.name}, round trip {round_trip_s:g} s",
            partial(_fair_rows, workload, round_trip_s),
        )
        for workload in WORKLOADS
        for round_trip_s in ROUND_TRIPS_S
        if with_fair
    ]
    tasks: list[Task[tuple[Row | FairRow, ...]]] = [*points, *fair]
    found = run_side_by_side(tasks, jobs=jobs, on_progress=on_progress)
    rows = [row for each in found for row in each]
    return PaperResults(
        rows=tuple(row for row in rows if isinstance(row, Row)),
        fair=tuple(row for row in rows if isinstance(row, FairRow)),
        not_yet=tuple(figure for figure in figures if not figure.can_run),
    )


def _rows(figure_id: str, index: int) -> tuple[Row, ...]:
    (figure,) = (figure for figure in FIGURES if figure.figure_id == figure_id)
    point = figure.points[index]
    values = figure.run(point)
    return tuple(
        Row(
            figure=figure_id,
            point=point,
            against=name,
            paper=figure.paper[name][index],
            ours=value / values[OURS],
            ours_value=values[OURS],
            against_value=value,
        )
        for name, value in values.items()
        if name != OURS
    )


def _fair_rows(workload: FairWorkload, round_trip_s: float) -> tuple[FairRow, ...]:
    values = run_fair(workload, round_trip_s)
    return tuple(
        FairRow(
            app=workload.name,
            round_trip_s=round_trip_s,
            against=name,
            ratio=value / values[OURS],
            ours_value=values[OURS],
            against_value=value,
        )
        for name, value in values.items()
        if name != OURS
    )


def write_results(results: PaperResults, path: Path) -> None:
    """Write the results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results.to_json(), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
