"""What each ingredient brings: the fair set's heavy loads with each of them switched off in turn."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from parrot.core.service_config import Ingredient
from parrot.sim.fair import NUM_ENGINES, PRESET, WORKLOADS, FairWorkload, mean_jct_s, ours
from parrot.sim.figures import engine
from parrot.sim.simulation import SimulationConfig

FORMAT = 1
"""Version of the results file's keys."""
ROUND_TRIP_S = 0.244
ATTENTION = "shared-prefix attention"
GRAPHS = "whole graphs"
NOTE = (
    "How many times longer applications take, on average, without one ingredient; 1 is no difference. Fair "
    "set, heavy load, round trip 244 ms. Pipelined fill does not show here: simulated engines tell an output "
    "in two pieces."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationRow:
    """One workload: what it takes with everything, and how many times that without."""

    app: str
    seconds: float
    without: Mapping[str, float]

    def to_json(self) -> dict[str, object]:
        """As one flat JSON value."""
        return {"app": self.app, "seconds": self.seconds, **self.without}


def variants() -> Mapping[str, SimulationConfig]:
    """Our system without one thing each, by the name of that."""
    whole = ours(ROUND_TRIP_S)
    found = {name: replace(whole, without=(name,)) for name in get_args(Ingredient)}
    found[GRAPHS] = replace(whole, client="requests")
    found[ATTENTION] = replace(whole, engines=(engine(PRESET, reads="each"),) * NUM_ENGINES)
    return found


def heavy_workloads() -> Sequence[FairWorkload]:
    """The fair set's heavy half."""
    return [workload for workload in WORKLOADS if workload.load == "heavy"]


def run_ablations(
    workloads: Sequence[FairWorkload] | None = None,
    *,
    on_progress: Callable[[str, float], None] | None = None,
) -> tuple[AblationRow, ...]:
    """Run every variant of every workload; `on_progress` is told what comes next and how much is done."""
    workloads = heavy_workloads() if workloads is None else workloads
    rows: list[AblationRow] = []
    for number, workload in enumerate(workloads):
        if on_progress is not None:
            on_progress(workload.name, number / len(workloads))
        seconds = mean_jct_s(ours(ROUND_TRIP_S), workload)
        without = {name: mean_jct_s(config, workload) / seconds for name, config in variants().items()}
        rows.append(AblationRow(app=workload.name, seconds=seconds, without=without))
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
