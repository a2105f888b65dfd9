"""The paper's evaluation, figure by figure: what it varies, against what, and what it found.

A figure's `run` gives the measured value (lower is better) of every system at one point, on the same
workload. Our system comes first; each base line is the paper's own for that figure.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from statistics import fmean

from parrot.core.policies import POLICIES
from parrot.sim.application import Application
from parrot.sim.arrivals import poisson, uniform
from parrot.sim.chance import stream
from parrot.sim.clients import Measured
from parrot.sim.cost import PRESETS, KvReads
from parrot.sim.engine import SimulatedConfig
from parrot.sim.simulation import Job, SimulationConfig, simulate
from parrot.sim.workloads import (
    background_request,
    chain_summary,
    chat_request,
    coding_team,
    copilot_request,
    gpts_request,
    map_reduce_summary,
    short_article_tokens,
)

OURS = "parrot"
OUR_POLICY = "app-centric"
BASE_POLICY = "fifo"
"""What the paper's base lines do: requests go at once to the engine with the fewest, which queues them."""
APART_S = 1e5
"""Applications this far apart in time do not meet."""
TOLERANCE = 0.2
"""How far from the paper's ratio ours may be without a reason stated."""

Values = Mapping[str, float]
"""Measured value by system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure, or one measure of it."""

    figure_id: str
    title: str
    varies: str
    """What the points are, with their unit."""
    points: Sequence[float]
    paper: Mapping[str, Sequence[float | None]]
    """By base line: how many times better the paper's system was at each point; None where it says
    nothing.
    """
    run: Callable[[float], Values]
    needs: str = OUR_POLICY
    """The policy without which it cannot be run."""
    note: str = ""
    """What to know when the two ratios differ."""

    @property
    def can_run(self) -> bool:
        """Whether its policy is there."""
        return self.needs in POLICIES


def engine(
    preset: str,
    *,
    kv_tokens: int | None = None,
    reads: KvReads = "once",
    chunked: bool = True,
    max_batch: int = 256,
    step_tokens: int = 2048,
    in_process: bool = False,
) -> SimulatedConfig:
    """An engine of a preset, with so many tokens of KV or as many as fit. `in_process`: as figures 14 and 15
    ran it, in a loop of its own without a service around it, which costs nothing for each request.
    """
    chosen = PRESETS[preset]
    tokens = kv_tokens or chosen.kv_tokens()
    cost = replace(chosen.cost(), kv_reads=reads)
    return SimulatedConfig(
        cost=replace(cost, request_s=0.0) if in_process else cost,
        num_blocks=tokens // 16,
        chunked=chunked,
        max_batch=max_batch,
        step_tokens=step_tokens,
        description=preset,
    )


def ours(*engines: SimulatedConfig, **fields: object) -> SimulationConfig:
    """Our system as the paper ran it: whole graphs, one round trip to submit each."""
    config = SimulationConfig(engines=engines, policy=OUR_POLICY, client="graph", round_trip=None)
    return replace(config, **fields)  # type: ignore[arg-type]


def base(*engines: SimulatedConfig, **fields: object) -> SimulationConfig:
    """The paper's base line: a client that sends request by request, and nothing shared."""
    config = SimulationConfig(
        engines=engines, policy=BASE_POLICY, client="requests", round_trip=None, without=("sharing",)
    )
    return replace(config, **fields)  # type: ignore[arg-type]


def _mean_jct(config: SimulationConfig, jobs: Sequence[Job], kind: str) -> float:
    report = simulate(config, jobs)
    if report.num_errors:
        raise RuntimeError(f"{report.num_errors} applications failed: {report.errors}")
    return fmean(report.jct_s[kind])


def _apart(make: Callable[..., Application], count: int, **fields: int) -> list[Job]:
    """Applications that run one at a time."""
    return [
        Job(at_s=index * APART_S, application=make(stream(index, "document"), **fields))
        for index in range(count)
    ]


# ── figures 11, 12: chains ──────────────────────────────────────────────────────────────────────────────────


def _chain(_: float, *, chunk_tokens: int, output_tokens: int) -> Values:
    jobs = _apart(chain_summary, 10, chunk_tokens=chunk_tokens, output_tokens=output_tokens)
    capped = partial(engine, "a100-80g-13b", kv_tokens=4096, step_tokens=2560)
    return {
        OURS: _mean_jct(ours(capped()), jobs, "chain"),
        "vllm": _mean_jct(base(capped(reads="each", chunked=False)), jobs, "chain"),
    }


BACKGROUND_DOCUMENTS = 3
"""Of the paper's ten: a run near saturation is long."""
BACKGROUND_S = 200.0
"""The load goes on no longer than this, so that a system that cannot take it ends at all."""


def _with_background(rate: float) -> Values:
    capped = partial(engine, "a100-80g-13b", kv_tokens=4096, step_tokens=2560)
    systems = {OURS: ours(capped()), "vllm": base(capped(reads="each", chunked=False))}
    return {
        name: fmean(_foreground(config, rate, doc) for doc in range(BACKGROUND_DOCUMENTS))
        for name, config in systems.items()
    }


def _foreground(config: SimulationConfig, rate: float, document: int) -> float:
    """Completion time of one chain that starts 3 s into a background load, which ends with it."""
    ended: list[float] = []

    def jobs() -> Iterator[Job]:
        chain = Job(at_s=3.0, application=chain_summary(stream(document, "document")))
        rng = stream(document, "background")
        came = False
        for at_s in poisson(rng, rate):
            if at_s > chain.at_s and not came:
                came = True
                yield chain
            if ended or at_s > BACKGROUND_S:
                return
            yield Job(at_s=at_s, application=background_request(rng))
        yield chain

    def observe(measured: Measured) -> None:
        if measured.kind == "chain":
            ended.append(measured.jct_s)

    simulate(config, jobs(), observe=observe)
    return ended[0]


def _many_chains(count: float) -> Values:
    jobs = []
    for index in range(int(count)):
        rng = stream(index, "document")
        application = chain_summary(rng, chunk_tokens=2048, num_tokens=short_article_tokens(rng))
        jobs.append(Job(at_s=0.0, application=application))
    capped = partial(engine, "a100-80g-13b", kv_tokens=4096, step_tokens=2560)
    return {
        OURS: _mean_jct(ours(capped()), jobs, "chain"),
        "vllm": _mean_jct(base(capped(reads="each", chunked=False)), jobs, "chain"),
    }


# ── figure 13: map-reduce ───────────────────────────────────────────────────────────────────────────────────


def _map_reduce(_: float, *, chunk_tokens: int, output_tokens: int) -> Values:
    jobs = _apart(map_reduce_summary, 10, chunk_tokens=chunk_tokens, output_tokens=output_tokens)
    large = engine("a100-80g-13b", kv_tokens=45_000, step_tokens=8000)
    capped = engine("a100-80g-13b", kv_tokens=4096, step_tokens=8000, chunked=False, reads="each")
    return {
        OURS: _mean_jct(ours(large), jobs, "mapreduce"),
        "vllm, latency": _mean_jct(base(capped), jobs, "mapreduce"),
    }


# ── figures 14, 15: many users of one long prompt ───────────────────────────────────────────────────────────


def _copilot(batch: float, *, count: int = 64, output_tokens: int | None = None) -> Values:
    jobs = [
        Job(at_s=0.0, application=copilot_request(stream(index, "copilot"), output_tokens=output_tokens))
        for index in range(count)
    ]
    shape = partial(
        engine,
        "a100-80g-7b",
        kv_tokens=6800 * 16,
        max_batch=int(batch),
        step_tokens=8000,
        chunked=False,
        in_process=True,
    )
    fields: dict[str, object] = {"max_concurrent": int(batch), "round_trip": 0.0}
    found = {
        OURS: _mean_jct(ours(shape(), **fields), jobs, "copilot"),
        "kv shared, read by each": _mean_jct(ours(shape(reads="each"), **fields), jobs, "copilot"),
    }
    if output_tokens is None and batch <= 16:
        alone = ours(shape(reads="each"), without=("sharing",), **fields)
        found["nothing shared"] = _mean_jct(alone, jobs, "copilot")
    return found


def _copilot_output(output_tokens: float, *, batch: int) -> Values:
    return _copilot(batch, count=288, output_tokens=int(output_tokens))


# ── figure 16: four GPTs on four engines ────────────────────────────────────────────────────────────────────


def _gpts(limit_ms: float) -> Values:
    """Milliseconds between requests that keep the mean latency of an output token below `limit_ms`."""
    shape = partial(engine, "a6000-48g-7b", kv_tokens=3000 * 16, max_batch=128)
    whole, paged = [shape()] * 4, [shape(reads="each")] * 4
    capped = [shape(kv_tokens=30_000, reads="each", chunked=False)] * 4
    systems = {
        OURS: ours(*whole),
        "parrot, kv read by each": ours(*paged),
        "vllm": base(*capped),
    }
    return {name: 1000 / _highest_rate(config, limit_ms / 1000) for name, config in systems.items()}


GPTS_REQUESTS = 500


def _highest_rate(config: SimulationConfig, limit_s: float) -> float:
    """Requests a second, to within 5 per cent, by bisection of a rate's logarithm."""
    low, high = 0.25, 32.0
    while high / low > 1.05:
        middle = (low * high) ** 0.5
        rng = stream(0, "gpts")
        jobs = [
            Job(at_s=at_s, application=gpts_request(rng))
            for at_s in islice(poisson(rng, middle), GPTS_REQUESTS)
        ]
        report = simulate(config, jobs)
        if fmean(report.per_token_s["gpts"]) <= limit_s:
            low = middle
        else:
            high = middle
    return low


# ── figure 17: a team of agents ─────────────────────────────────────────────────────────────────────────────


def _team(num_files: float) -> Values:
    jobs = [Job(at_s=0.0, application=coding_team(stream(0, "team"), num_files=int(num_files)))]
    shape = partial(engine, "a100-80g-13b", step_tokens=8000)
    systems = {
        OURS: ours(shape(kv_tokens=64_000)),
        "vllm, latency": base(shape(kv_tokens=7096, reads="each", chunked=False)),
        "vllm, throughput": base(shape(reads="each", chunked=False)),
        "parrot, kv read by each": ours(shape(kv_tokens=64_000, reads="each")),
    }
    if num_files <= 8:
        systems["parrot, nothing shared"] = ours(shape(kv_tokens=64_000, reads="each"), without=("sharing",))
    return {name: _mean_jct(config, jobs, "team") for name, config in systems.items()}


# ── figure 18: chat beside map-reduce ───────────────────────────────────────────────────────────────────────

_GAPS_S = (0.5, 0.5, 10.0) * 3
MEASURES = ("chat, normalised latency", "chat, decode time", "map-reduce, completion")


def _mixed_jobs() -> list[Job]:
    rng = stream(0, "chat")
    jobs = [Job(at_s=at_s, application=chat_request(rng)) for at_s in islice(uniform(1.0), 40)]
    at_s = 15.0
    for gap_s in _GAPS_S:
        application = map_reduce_summary(stream(0, "document"))
        jobs.append(Job(at_s=at_s, application=replace(application, objective="throughput")))
        at_s += gap_s
    return sorted(jobs, key=lambda job: job.at_s)


def _mixed(measure: float) -> Values:
    shape = partial(engine, "a6000-48g-7b")
    systems = {
        OURS: ours(*[shape(kv_tokens=53_000)] * 4, with_calls=True),
        "vllm, throughput": base(*[shape(reads="each", chunked=False)] * 4, with_calls=True),
        "vllm, latency": base(*[shape(kv_tokens=4096, reads="each", chunked=False)] * 4, with_calls=True),
    }
    return {name: _mixed_value(config, int(measure)) for name, config in systems.items()}


def _mixed_value(config: SimulationConfig, measure: int) -> float:
    found: list[float] = []

    def observe(measured: Measured) -> None:
        if measured.error is not None:
            raise RuntimeError(f"an application failed: {measured.error}")
        if (measured.kind == "chat") != (measure < 2):
            return
        if measure == 1:
            times = measured.calls[0].times
            assert times.done_s is not None, "it has ended"
            assert times.first_token_s is not None, "it has begun"
            found.append((times.done_s - times.first_token_s) / (measured.num_output_tokens - 1))
        else:
            found.append(measured.jct_s / (measured.num_output_tokens if measure == 0 else 1))

    simulate(config, _mixed_jobs(), observe=observe)
    return fmean(found)


# ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────

_OUTPUTS = (25.0, 50.0, 75.0, 100.0)
_CHUNKS = (512.0, 1024.0, 1536.0, 2048.0)

FIGURES: Sequence[Figure] = (
    Figure(
        figure_id="11a",
        title="Chain summary, by output length",
        varies="output tokens",
        points=_OUTPUTS,
        paper={"vllm": (1.35, 1.20, 1.20, 1.32)},
        run=lambda point: _chain(point, chunk_tokens=1024, output_tokens=int(point)),
        note="what is saved is a round trip a call, so the ratio falls as outputs grow; the paper's base "
        "line had other prompts, and could stop early",
    ),
    Figure(
        figure_id="11b",
        title="Chain summary, by chunk length",
        varies="chunk tokens",
        points=_CHUNKS,
        paper={"vllm": (1.21, 1.23, 1.19, 1.17)},
        run=lambda point: _chain(point, chunk_tokens=int(point), output_tokens=50),
    ),
    Figure(
        figure_id="12a",
        title="Chain summary beside background requests",
        varies="background requests/s",
        points=(0.0, 1.0, 2.0, 3.0, 3.5),
        paper={"vllm": (1.21, 1.19, 1.31, 1.79, 2.38)},
        run=_with_background,
        note="at 3 and 3.5 a second the base line's queue grows for as long as the load goes on, here 200 s: "
        "with 50 s the ratios are 1.67 and 1.87, with 100 s 2.54 and 3.13; ours takes 43 s in each",
    ),
    Figure(
        figure_id="12b",
        title="Chain summaries side by side",
        varies="applications",
        points=(10.0, 15.0, 20.0, 25.0),
        paper={"vllm": (1.38, 1.52, 1.63, 1.68)},
        run=_many_chains,
        note="the ratio comes from the order alone: of chains that came together the one nearest to its end "
        "goes on; served as they came (without fairness) it is 1.00 for 10 and for 15, and the last ends at "
        "the same time",
    ),
    Figure(
        figure_id="13a",
        title="Map-reduce summary, by output length",
        varies="output tokens",
        points=_OUTPUTS,
        paper={"vllm, latency": (1.70, 2.04, 2.22, 2.37)},
        run=lambda point: _map_reduce(point, chunk_tokens=1024, output_tokens=int(point)),
    ),
    Figure(
        figure_id="13b",
        title="Map-reduce summary, by chunk length",
        varies="chunk tokens",
        points=_CHUNKS,
        paper={"vllm, latency": (1.96, 2.07, 2.07, 2.16)},
        run=lambda point: _map_reduce(point, chunk_tokens=int(point), output_tokens=50),
        note="a chunk of 2,048 fits into the capped engine once, so the base line runs one map at a time: "
        "with a cap of 4,352 in place of 4,096 two fit, and the ratio is 1.90",
    ),
    Figure(
        figure_id="14",
        title="Copilot, by batch",
        varies="batch",
        points=(8.0, 16.0, 32.0, 64.0),
        paper={
            "kv shared, read by each": (1.1, 1.3, 1.4, 1.7),
            "nothing shared": (1.8, 2.4, None, None),
        },
        run=_copilot,
    ),
    Figure(
        figure_id="15a",
        title="Copilot, batch 32, by output length",
        varies="output tokens",
        points=(200.0, 400.0, 600.0, 800.0),
        paper={"kv shared, read by each": (1.37, 1.46, 1.49, 1.50)},
        run=partial(_copilot_output, batch=32),
    ),
    Figure(
        figure_id="15b",
        title="Copilot, batch 64, by output length",
        varies="output tokens",
        points=(100.0, 200.0, 300.0, 400.0, 480.0),
        paper={"kv shared, read by each": (1.44, 1.64, 1.74, 1.81, 1.84)},
        run=partial(_copilot_output, batch=64),
    ),
    Figure(
        figure_id="16",
        title="Four GPTs on four engines: request rate below a latency per token",
        varies="limit, ms/token",
        points=(200.0, 300.0),
        paper={"parrot, kv read by each": (2.55, 2.5), "vllm": (11.0, 11.9)},
        run=_gpts,
        note="the ratio is that of rates, found to within 5 per cent; the value is the time between "
        "requests; at 200 ms engines with paged attention take 3 a second here, 4.1 in the paper; "
        "500 requests are no steady state at 300 ms: with 2,000 our rate is 4.3 a second, not 31, and the "
        "ratios are 1.9 and 5.5",
    ),
    Figure(
        figure_id="17",
        title="A coding team of agents",
        varies="files",
        points=(4.0, 8.0, 12.0, 16.0),
        paper={
            "vllm, latency": (2.95, 4.90, 7.25, 8.90),
            "vllm, throughput": (1.27, 1.58, 2.06, 2.43),
            "parrot, kv read by each": (1.01, 1.03, 1.13, 1.16),
            "parrot, nothing shared": (1.25, 1.62, None, None),
        },
        run=_team,
    ),
    Figure(
        figure_id="18",
        title="Chat beside map-reduce on four engines",
        varies="measure",
        points=(0.0, 1.0, 2.0),
        paper={"vllm, throughput": (1.24, 1.73, 1.06), "vllm, latency": (5.55, 0.92, 3.72)},
        run=_mixed,
        note="; ".join(f"measure {number}: {name}" for number, name in enumerate(MEASURES))
        + "; against the latency base line the article's length decides: ours has 22,120 tokens; with 40,000 "
        "the chat ratios are 5.38 and 0.98 (the paper's are 5.55 and 0.92), and with 48,000 map-reduce "
        "takes the base lines as long as in the paper (84.0 and 24.7 s; there 86.4 and 24.5)",
    ),
)
"""Every figure of the paper's evaluation that has numbers."""
