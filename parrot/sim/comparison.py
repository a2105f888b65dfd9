"""One workload under one or two settings, and what came out, in the field's metrics."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from math import ceil
from random import Random
from statistics import fmean
from typing import Literal

from parrot.errors import ConfigError
from parrot.sim.application import Application
from parrot.sim.arrivals import bursts, poisson, uniform
from parrot.sim.chance import stream
from parrot.sim.simulation import Job, Report
from parrot.sim.workloads import APPLICATIONS

ArrivalKind = Literal["poisson", "uniform", "burst", "closed"]
"""`closed`: all wait at the client from the beginning, and `max_concurrent` run at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What arrives, and when. The same workload gives the same jobs every time."""

    app: str | None = None
    """A name of `workloads.APPLICATIONS`."""
    application: Callable[[Random], Application] | None = None
    """Makes an application that has no name, as from a trace; each time with other texts."""
    count: int = 20
    arrivals: ArrivalKind = "poisson"
    rate: float = 1.0
    """Applications a second."""
    burst: int = 8
    """Applications that come at one instant, with `burst` arrivals."""
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.app is None) == (self.application is None):
            raise ConfigError("name either an application or a trace", param="app")
        if self.app is not None and self.app not in APPLICATIONS:
            known = ", ".join(APPLICATIONS)
            raise ConfigError(f"no application {self.app!r}; there are {known}", param="app")

    def jobs(self) -> Iterator[Job]:
        """The jobs in order of time, one by one."""
        rng = stream(self.seed, "applications")
        for at_s in islice(self._times(), self.count):
            if self.application is not None:
                yield Job(at_s=at_s, application=self.application(rng))
            elif self.app is not None:
                yield Job(at_s=at_s, application=APPLICATIONS[self.app](rng))

    def _times(self) -> Iterator[float]:
        rng = stream(self.seed, "arrivals")
        match self.arrivals:
            case "poisson":
                return poisson(rng, self.rate)
            case "uniform":
                return uniform(self.rate)
            case "burst":
                return bursts(rng, rate=self.rate, size=self.burst)
            case "closed":
                return repeat(0.0)


def summary(report: Report) -> dict[str, object]:
    """A report in the field's metrics, as one JSON value."""
    times = sorted(report.all_jct_s())
    per_token = [each for values in report.per_token_s.values() for each in values]
    loads = report.engines.values()
    prompt, shared = report.num_prompt_tokens, report.num_shared_tokens
    return {
        "num_applications": report.num_applications,
        "num_calls": report.num_calls,
        "errors": dict(report.errors),
        "simulated_s": report.ended_at_s,
        "jct_s": spread(times),
        "normalised_latency_s": fmean(per_token) if per_token else None,
        "applications_per_s": report.num_applications / report.ended_at_s if report.ended_at_s else None,
        "output_tokens_per_s": report.num_output_tokens / report.ended_at_s if report.ended_at_s else None,
        "prompt_tokens": prompt,
        "output_tokens": report.num_output_tokens,
        "prefilled_tokens": sum(load.num_prefilled_tokens for load in loads),
        "prefix_hit_rate": shared / prompt if prompt else None,
        "preemptions": sum(load.num_preemptions for load in loads),
        "evictions": sum(load.num_evictions for load in loads),
    }


def spread(values: Sequence[float]) -> Mapping[str, float] | None:
    """Mean, quantiles and extremes of sorted values; None when there are none."""
    if not values:
        return None
    return {
        "mean": fmean(values),
        "min": values[0],
        "p50": _quantile(values, 0.5),
        "p90": _quantile(values, 0.9),
        "p99": _quantile(values, 0.99),
        "max": values[-1],
    }


def _quantile(values: Sequence[float], share: float) -> float:
    return values[max(0, ceil(share * len(values)) - 1)]
