"""The fair set: our system against servers of today, same prompts and lengths, with and without a round trip.

Three base lines send request by request, with prefix caching, chunked prefill, continuous batching, all the
memory there is, and attention that reads shared KV once for each request: in full batches; in batches that
are small enough for somebody to wait; in full batches, routed to where prefixes are cached.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import fmean

from parrot.sim.arrivals import poisson
from parrot.sim.chance import stream
from parrot.sim.figures import OUR_POLICY, OURS, Values, engine
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


BASE_POLICIES: Mapping[str, str] = {
    "full batches": "throughput",
    "small batches": "request-level",
    "routed by cache": "cache-aware",
}
"""The base lines' policies by their names here."""


def run_fair(workload: FairWorkload, round_trip_s: float) -> Values:
    """Mean job completion time, in seconds, of every system."""
    make: Callable[..., SimulationConfig] = partial(SimulationConfig, round_trip=round_trip_s)
    systems = {OURS: make(engines=(engine(_PRESET),) * NUM_ENGINES, policy=OUR_POLICY, client="graph")}
    for name, policy in BASE_POLICIES.items():
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
