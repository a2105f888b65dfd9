"""The fair set: our system against servers of today, same prompts and lengths, lightly and heavily loaded,
with and without a round trip.

The base lines send request by request and have what such servers have: prefix caching, chunked prefill,
continuous batching in full batches, all the memory there is. One sends each request to the engine with the
fewest; one routes to where prefixes are cached; one heeds priorities that clients give. Their attention reads
KV that requests share once for each of them, as paged attention does; beside that, each is run with our
engines' attention, so that what is left is the policy alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from random import Random
from statistics import fmean

from parrot.sim.application import Application
from parrot.sim.arrivals import poisson
from parrot.sim.chance import stream
from parrot.sim.figures import OUR_POLICY, OURS, Values, engine
from parrot.sim.simulation import Job, SimulationConfig, simulate
from parrot.sim.workloads import APPLICATIONS, chat_request, map_reduce_summary

ROUND_TRIPS_S = (0.0, 0.244)
NUM_ENGINES = 4
PRESET = "a100-80g-13b"
BULK_SHARE = 0.1
"""Of the mixed workload's applications, those that are map-reduces nobody waits for."""
OWN_ATTENTION = ", our attention"
"""Marks a base line that has our engines' attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FairWorkload:
    """Applications that arrive again and again."""

    app: str
    """A name of `workloads.APPLICATIONS`, or `mixed`."""
    count: int
    rate: float
    """Applications a second, for four engines."""
    load: str = "light"
    measured: str | None = None
    """The kind of application that is measured; None for all."""

    @property
    def name(self) -> str:
        """In results."""
        return f"{self.measured or self.app}{' in a mix' if self.measured else ''}, {self.load} load"

    def jobs(self) -> list[Job]:
        """The same every time."""
        rng = stream(0, f"fair {self.app}")
        make = _mixed if self.app == "mixed" else APPLICATIONS[self.app]
        arrivals = islice(poisson(stream(0, "fair arrivals"), self.rate), self.count)
        return [Job(at_s=at_s, application=make(rng)) for at_s in arrivals]


def _mixed(rng: Random) -> Application:
    """Chats that somebody waits for, and now and then a map-reduce that nobody does."""
    if rng.random() < BULK_SHARE:
        return replace(map_reduce_summary(rng), objective="throughput")
    return chat_request(rng)


def _both(app: str, *, light: tuple[int, float], heavy: tuple[int, float]) -> tuple[FairWorkload, ...]:
    return tuple(
        FairWorkload(app=app, count=count, rate=rate, load=load, measured=measured)
        for load, (count, rate) in (("light", light), ("heavy", heavy))
        for measured in (("chat", "mapreduce") if app == "mixed" else (None,))
    )


WORKLOADS: Sequence[FairWorkload] = (
    *_both("chain", light=(30, 0.5), heavy=(60, 1.0)),
    *_both("mapreduce", light=(40, 0.4), heavy=(80, 0.8)),
    *_both("copilot", light=(200, 5.0), heavy=(300, 8.0)),
    *_both("gpts", light=(200, 5.0), heavy=(300, 8.0)),
    *_both("team", light=(8, 0.05), heavy=(16, 0.1)),
    *_both("mixed", light=(150, 2.0), heavy=(300, 6.0)),
)

BASE_POLICIES: Mapping[str, str] = {
    "full batches": "throughput",
    "routed by cache": "cache-aware",
    "priority hints": "priority-hints",
}
"""The base lines' policies by their names here."""


def ours(round_trip_s: float) -> SimulationConfig:
    """Our system."""
    return SimulationConfig(
        engines=(engine(PRESET),) * NUM_ENGINES, policy=OUR_POLICY, client="graph", round_trip=round_trip_s
    )


def run_fair(workload: FairWorkload, round_trip_s: float) -> Values:
    """Mean job completion time, in seconds, of every system. What base lines would do with our attention is
    run without a round trip only.
    """
    systems = {OURS: ours(round_trip_s)}
    make: Callable[..., SimulationConfig] = partial(
        SimulationConfig, round_trip=round_trip_s, client="requests"
    )
    for name, policy in BASE_POLICIES.items():
        hints = policy == "priority-hints"
        paged = (engine(PRESET, reads="each"),) * NUM_ENGINES
        systems[name] = make(engines=paged, policy=policy, hints=hints)
        if round_trip_s == 0:
            own = (engine(PRESET),) * NUM_ENGINES
            systems[name + OWN_ATTENTION] = make(engines=own, policy=policy, hints=hints)
    return {name: mean_jct_s(config, workload) for name, config in systems.items()}


def mean_jct_s(config: SimulationConfig, workload: FairWorkload) -> float:
    """Mean job completion time of what the workload measures.

    Raises:
        RuntimeError: an application failed.
    """
    report = simulate(config, workload.jobs())
    if report.num_errors:
        raise RuntimeError(f"{report.num_errors} applications failed: {report.errors}")
    return fmean(report.all_jct_s() if workload.measured is None else report.jct_s[workload.measured])
