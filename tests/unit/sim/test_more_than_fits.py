"""Applications that share more than an engine can hold do not gather on the engine that holds some of it."""

from dataclasses import replace
from functools import partial
from itertools import islice
from statistics import fmean

import pytest

from parrot.sim.arrivals import uniform
from parrot.sim.chance import stream
from parrot.sim.figures import engine, ours
from parrot.sim.simulation import Job, simulate
from parrot.sim.workloads import chat_request, map_reduce_summary

ARTICLE_TOKENS, KV_TOKENS = 64_000, 53_000


def jobs() -> list[Job]:
    """Chat that somebody waits for, and nine summaries of one article."""
    rng = stream(0, "chat")
    chat = [Job(at_s=at_s, application=chat_request(rng)) for at_s in islice(uniform(1.0), 40)]
    summaries = [
        Job(
            at_s=15 + 0.5 * number,
            application=replace(
                map_reduce_summary(stream(0, "document"), num_tokens=ARTICLE_TOKENS), objective="throughput"
            ),
        )
        for number in range(9)
    ]
    return sorted(chat + summaries, key=lambda job: job.at_s)


@pytest.mark.parametrize("policy", ["app-centric", "cache-aware"])
def test_sharing_an_article_that_no_engine_can_hold_is_no_loss(policy: str) -> None:
    shape = partial(engine, "a6000-48g-7b")
    config = replace(ours(*[shape(kv_tokens=KV_TOKENS)] * 4), policy=policy)
    with_sharing, without = (
        simulate(replace(config, without=switched), jobs()) for switched in ((), ("sharing",))
    )
    assert fmean(with_sharing.jct_s["mapreduce"]) < fmean(without.jct_s["mapreduce"])
