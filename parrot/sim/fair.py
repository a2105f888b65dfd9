"""The fair set: our system against servers of today, same prompts and lengths, with and without a round trip.

Three base lines, all with prefix caching, chunked prefill, continuous batching and all the memory there is,
and with attention that reads shared KV once for each request: request by request; the same with routing to
cached prefixes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import fmean

from parrot.core.policies import POLICIES
from parrot.sim.arrivals import poisson
from parrot.sim.chance import stream
from parrot.sim.figures import OURS, Values, engine, our_policy
from parrot.sim.simulation import Job, SimulationConfig, simulate
from parrot.sim.workloads import APPLICATIONS

ROUND_TRIPS_S = (0.0, 0.244)
NUM_ENGINES = 4
_PRESET = "a100-80g-13b"


@dataclass(frozen=True, slots=True, kw_only=True)
class FairWorkload:
    """One application that arrives again and again."""

    app: str
    count: int
    rate: float
    """Applications a second, for four engines."""


WORKLOADS: Sequence[FairWorkload] = (
    FairWorkload(app="chain", count=30, rate=0.5),
    FairWorkload(app="mapreduce", count=40, rate=0.5),
    FairWorkload(app="copilot", count=200, rate=5.0),
    FairWorkload(app="gpts", count=200, rate=5.0),
    FairWorkload(app="team", count=8, rate=0.05),
)


def base_policies() -> Mapping[str, str]:
    """The base lines' policies by their names here."""
    wanted = {
        "requests": ("request-level", "fifo"),
        "requests, routed by cache": ("cache-aware", "longest-prefix"),
    }
    return {name: next(each for each in names if each in POLICIES) for name, names in wanted.items()}


def run_fair(workload: FairWorkload, round_trip_s: float) -> Values:
    """Mean job completion time, in seconds, of every system."""
    make: Callable[..., SimulationConfig] = partial(SimulationConfig, round_trip=round_trip_s)
    systems = {OURS: make(engines=(engine(_PRESET),) * NUM_ENGINES, policy=our_policy(), client="graph")}
    for name, policy in base_policies().items():
        paged = (engine(_PRESET, reads="each"),) * NUM_ENGINES
        systems[name] = make(engines=paged, policy=policy, client="requests")
    return {name: _mean_jct(config, workload) for name, config in systems.items()}


def _mean_jct(config: SimulationConfig, workload: FairWorkload) -> float:
    rng = stream(0, f"fair {workload.app}")
    arrivals = islice(poisson(stream(0, "fair arrivals"), workload.rate), workload.count)
    jobs = [Job(at_s=at_s, application=APPLICATIONS[workload.app](rng)) for at_s in arrivals]
    report = simulate(config, jobs)
    if report.num_errors:
        raise RuntimeError(f"{report.num_errors} applications failed: {report.errors}")
    return fmean(report.all_jct_s())
