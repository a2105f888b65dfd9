"""What each ingredient brings: the fair set's heavy loads, and loads that are made to show single ones, with
each of them switched off in turn.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

from parrot.core.service_config import Ingredient
from parrot.sim.fair import NUM_ENGINES, PRESET, WORKLOADS, FairWorkload, mean_jct_s, ours
from parrot.sim.figures import OURS, engine
from parrot.sim.side_by_side import Progress, Task, run_side_by_side
from parrot.sim.simulation import SimulationConfig

FORMAT = 1
"""Version of the results file's keys."""
ROUND_TRIP_S = 0.244
ATTENTION = "shared-prefix attention"
GRAPHS = "whole graphs"
AHEAD = "anything ahead"
"""Without prefill ahead and pipelined fill: where one of them is off, the other does some of its work."""
NOTE = (
    "How many times longer applications take, on average, without one ingredient; 1 is no difference. Fair "
    "set, heavy load, and loads made to show one ingredient: roles (prefill ahead), recheck (retention), "
    "questions (groups, affinity), rewrite (pipelined fill). Round trip 244 ms. Pipelined fill saves the "
    "prefill of an output that a decode has taken a hundred times as long to write: one per cent at most."
)
TELLING: Sequence[FairWorkload] = (
    FairWorkload(app="roles", count=30, rate=0.1, load="light"),
    FairWorkload(app="roles", count=30, rate=0.4, load="heavy"),
    FairWorkload(app="recheck", count=60, rate=1.0, load="heavy"),
    FairWorkload(app="questions", count=60, rate=0.4, load="light"),
    FairWorkload(app="questions", count=60, rate=1.2, load="heavy"),
    FairWorkload(app="rewrite", count=20, rate=0.05, load="light"),
)
"""Each is made for what one ingredient is for."""
PIECE_TOKENS = 16
"""In these, simulated engines tell outputs in pieces of so many tokens, as real ones tell them one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationRow:
    """One workload: what it takes with everything, and how many times that without."""

    app: str
    seconds: float
    without: Mapping[str, float]

    def to_json(self) -> dict[str, object]:
        """As one flat JSON value."""
        return {"app": self.app, "seconds": self.seconds, **self.without}


def variants(system: SimulationConfig) -> Mapping[str, SimulationConfig]:
    """Our system without one thing each, by the name of that."""
    found = {name: replace(system, without=(name,)) for name in get_args(Ingredient)}
    found[AHEAD] = replace(system, without=("prefill-ahead", "pipelining"))
    found[GRAPHS] = replace(system, client="requests")
    apart = replace(engine(PRESET, reads="each"), piece_tokens=system.engines[0].piece_tokens)
    found[ATTENTION] = replace(system, engines=(apart,) * NUM_ENGINES)
    return found


def whole(workload: FairWorkload) -> SimulationConfig:
    """Our system with everything, for a workload."""
    piece_tokens = PIECE_TOKENS if workload in TELLING else None
    engines = (replace(engine(PRESET), piece_tokens=piece_tokens),) * NUM_ENGINES
    return replace(ours(ROUND_TRIP_S), engines=engines)


def heavy_workloads() -> Sequence[FairWorkload]:
    """The fair set's heavy half."""
    return [workload for workload in WORKLOADS if workload.load == "heavy"]


def run_ablations(
    workloads: Sequence[FairWorkload] | None = None, *, jobs: int = 1, on_progress: Progress | None = None
) -> tuple[AblationRow, ...]:
    """Run every variant of every workload, with `jobs` processes; see `run_side_by_side`."""
    workloads = (*heavy_workloads(), *TELLING) if workloads is None else workloads
    systems = [{OURS: whole(workload), **variants(whole(workload))} for workload in workloads]
    tasks = [
        Task(
            workload.name if name == OURS else f"{workload.name}, without {name}",
            partial(mean_jct_s, config, workload),
        )
        for workload, configs in zip(workloads, systems, strict=True)
        for name, config in configs.items()
    ]
    seconds = iter(run_side_by_side(tasks, jobs=jobs, on_progress=on_progress))
    rows: list[AblationRow] = []
    for workload, configs in zip(workloads, systems, strict=True):
        taken = {name: next(seconds) for name in configs}
        with_all = taken.pop(OURS)
        without = {name: each / with_all for name, each in taken.items()}
        rows.append(AblationRow(app=workload.name, seconds=with_all, without=without))
    return tuple(rows)


def ablations_json(rows: Sequence[AblationRow]) -> dict[str, object]:
    """The table as one JSON value."""
    return {
        "format": FORMAT,
        "note": NOTE,
        "engines": NUM_ENGINES,
        "preset": PRESET,
        "round_trip_s": ROUND_TRIP_S,
        "rows": [row.to_json() for row in rows],
    }


def write_ablations(rows: Sequence[AblationRow], path: Path) -> None:
    """Write the results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(ablations_json(rows), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
